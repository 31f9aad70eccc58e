"""What runs drew, made small and put into the page itself.

SVG becomes part of the page, in its font and colors; anything in the file that is no line, area or
text stays out, so that no file brings a script, a rule or an address along. Photographs become WebP.
"""

import base64
import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup
from PIL import Image, UnidentifiedImageError, features

LIMIT = 6_000_000
"""Characters that all drawings of a page may take together, about as many bytes."""
_WIDEST = 1400  # pixels of an embedded picture
_QUALITY = 80  # of WebP: 0.1 MB a sheet instead of PNG's 0.9, and no difference to see
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_TAGS = frozenset({"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"})
_NUMBERS = frozenset({"d", "x", "y", "width", "height", "transform"})
_LOCAL = re.compile(r"#[\w.-]+|url\(#[\w.-]+\)")


@dataclass(frozen=True)
class Drawing:
    """One file of a run.

    Attributes:
        title: what it shows.
        markup: an element, or None where there is nothing to show.
        problem: why there is nothing, in words.
    """

    title: str
    markup: Markup | None
    problem: str = ""


def read_drawing(
    path: Path,
    title: str,
    *,
    name: str,  # another one for each drawing of a page: it keeps the ids apart
) -> Drawing:
    """The file as an element of the page."""
    try:
        markup = _svg(path, title, name) if path.suffix == ".svg" else _picture(path, title)
    except FileNotFoundError:
        return Drawing(title, None, f"{path} is not there.")
    except (OSError, UnicodeDecodeError, UnidentifiedImageError, Image.DecompressionBombError):
        return Drawing(title, None, f"{path} cannot be read.")
    except ElementTree.ParseError as error:
        return Drawing(title, None, f"{path} is no SVG ({error}).")
    return Drawing(title, Markup(markup))


def _picture(path: Path, title: str) -> str:
    with Image.open(path) as file:
        image = file.convert("RGBA")
    image.thumbnail((_WIDEST, 10 * _WIDEST), Image.Resampling.LANCZOS)
    buffer, kind = io.BytesIO(), "webp" if features.check("webp") else "png"
    image.save(buffer, kind, quality=_QUALITY, optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    width, height = image.size
    return (
        f'<img src="data:image/{kind};base64,{content}" alt="{escape(title)}" '
        f'width="{width}" height="{height}">'
    )


# ---- SVG


def _svg(path: Path, title: str, name: str) -> str:
    root = ElementTree.fromstring(path.read_text())
    if root.tag != f"{_SVG}svg" or "viewBox" not in root.attrib:
        raise ElementTree.ParseError("no svg element with a viewBox")
    slim = _slim(root, f"{name}-")
    # As wide as it was drawn, in pixels, or as the page where that is wider: text stays readable.
    width = float(root.attrib["viewBox"].split()[2])
    slim.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": title,
        "style": f"min-width: {width:.0f}px",
    }
    return ElementTree.tostring(slim, encoding="unicode")


def _slim(element: ElementTree.Element, prefix: str) -> ElementTree.Element:
    """The element with what draws, its ids prefixed, a tenth of a point being exact enough."""
    out = ElementTree.Element(element.tag.removeprefix(_SVG))
    for key, value in element.attrib.items():
        name = key.removeprefix(_XLINK)
        if name in ("href", "clip-path"):
            if _LOCAL.fullmatch(value):
                out.set(name, value.replace("#", f"#{prefix}"))
        elif name == "id":
            if out.tag != "g":  # nothing refers to a group
                out.set("id", prefix + value)
        elif name == "d":
            out.set("d", _thinned(_rounded(value)))
        elif name in _NUMBERS and not value.startswith("rotate(-0 "):
            out.set(name, _rounded(value))
        elif name == "style" and "(" not in value:
            out.set(name, re.sub(r"\s*font-family: [^;]*;", "", value))
    out.text = element.text if out.tag in ("text", "tspan") else None
    for child in element:
        if child.tag.removeprefix(_SVG) in _TAGS:
            slim = _slim(child, prefix)
            bare = slim.tag == "g" and not slim.attrib
            out.extend(slim if bare else [slim])
    return out


def _rounded(numbers: str) -> str:
    return re.sub(
        r"-?\d+\.\d+",
        lambda found: f"{float(found[0]):.1f}".removesuffix(".0"),
        re.sub(r"\s+", " ", numbers.strip()),
    )


def _thinned(path: str) -> str:
    """A polyline without the points that lie on a level stretch between others."""
    if not re.fullmatch(r"M [-\d.]+ [-\d.]+( L [-\d.]+ [-\d.]+)+", path):
        return path
    points = [point.split() for point in re.split(r" ?[ML] ", path)[1:]]
    kept = [
        point
        for before, point, after in zip([[], *points[:-1]], points, [*points[1:], []], strict=True)
        if not (before and after and before[1] == point[1] == after[1])
    ]
    return "M" + "L".join(" ".join(point) for point in kept)
