"""What tests read from a page of the report, without a browser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import transfer.report

VOID = {"meta", "img", "br", "link"}
_LOADING = ("src", "href", "xlink:href", "data", "srcset", "action", "poster")
SCRIPT = (Path(transfer.report.__path__[0]) / "templates" / "sort.js").read_text()


@dataclass
class Element:
    """A start tag with its attributes and the text inside it."""

    tag: str
    attributes: dict[str, str | None]
    parent: "Element | None"
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The accessible name that its own attributes or its text give it."""
        stated = self.attributes.get("aria-label") or self.attributes.get("alt") or self.text
        return " ".join((stated or "").split())


class Page(HTMLParser):
    """The elements of a page in their order; fails if a tag is not closed by its own end tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text: list[str] = []
        self._open: list[Element] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), self._open[-1] if self._open else None)
        self.elements.append(element)
        if element.parent is not None:
            element.parent.children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        self.text.append(data)
        for element in self._open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        """The elements with one of these tags."""
        return [element for element in self.elements if element.tag in tags]

    @property
    def tags(self) -> set[str]:
        return {element.tag for element in self.elements}

    @property
    def loads(self) -> list[str]:
        """The values of all attributes that can load something or lead somewhere."""
        pairs = (pair for element in self.elements for pair in element.attributes.items())
        return [value or "" for name, value in pairs if name in _LOADING]


def without_script(page: str) -> str:
    """The page without the script that sorts tables, which it contains exactly once."""
    before, script, after = page.partition(f"<script>{SCRIPT}</script>")
    assert script
    return before + after
