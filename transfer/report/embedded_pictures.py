"""Drawings of runs and photographs, embedded in the page.

SVG becomes part of the page and uses its font and colors. Only shapes and text are copied, so a file cannot
add scripts, style sheets or links. Small pictures are embedded unchanged; others are scaled down.
"""

import base64
import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup
from PIL import Image

from msbreg.run.errors import UserError
from msbreg.run.json_files import read_bytes
from transfer.drawing.figure_memory import remembered

THUMBNAIL = 64  # pixels of a neighbor's picture on the page
_LIMIT = 30_000_000  # bytes of a picture's file
_SVG_LIMIT = 2_000_000  # bytes of an SVG file
_MOST_PIXELS = 60_000_000
_SMALL = 250_000  # bytes up to which a picture is embedded unchanged
_WIDEST = 1400  # pixels of an embedded picture
_DEPTH = 30  # nesting levels of an SVG
_NAMESPACE, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_TAGS = frozenset({"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"})
_NUMBERS = frozenset({"d", "x", "y", "width", "height", "transform"})
_LOCAL = re.compile(r"#[\w.-]+|url\(#[\w.-]+\)")
_VIEW = re.compile(r"\s*-?[\d.]{1,12}\s+-?[\d.]{1,12}\s+([\d.]{1,12})\s+[\d.]{1,12}\s*")


@dataclass(frozen=True)
class Drawing:
    """A drawing of a run: its markup, or why it cannot be shown.

    Attributes:
        photographs: whether it shows images, unlike a plot.
    """

    title: str
    markup: Markup | None
    problem: str = ""
    photographs: bool = False


class Budget:
    """Limits for the pictures on one page.

    Args:
        characters: total size of all pictures in the page.
        files: number of files to decode.
    """

    def __init__(self, characters: int, files: int) -> None:
        self.characters, self.files = characters, files
        self._count = 0

    def drawing(self, path: Path, title: str, *, of: str = "") -> Drawing:
        """The drawing, or why it is not shown; ``of`` names the run in its text alternative."""
        if self.files <= 0 or self.characters <= 0:
            return Drawing(title, None, f"Omitted to keep this page small: see {path}.")
        self.files -= 1
        self._count += 1
        drawing = read_drawing(path, title, of=of, name=f"drawing{self._count}")
        size = len(drawing.markup or "")
        if size > self.characters:
            return Drawing(title, None, f"Omitted to keep this page small: see {path}.")
        self.characters -= size
        return drawing

    def thumbnail(self, path: str) -> str | None:
        """The image as a data URI; None if it cannot be read or exceeds the budget."""
        if self.files <= 0 or self.characters <= 0:
            return None
        self.files -= 1
        uri = thumbnail(Path(path))
        self.characters -= len(uri or "")
        return uri


def read_drawing(
    path: Path,
    title: str,
    *,
    of: str = "",  # the run, for the text alternative
    name: str,  # unique on the page: the prefix of the ids in an SVG
) -> Drawing:
    """The file as an element of the page, or why it cannot be shown."""
    plot, alternative = path.suffix == ".svg", f"{title}: {of}" if of else title
    draw = _svg if plot else _picture
    try:
        content = read_bytes(path, _SVG_LIMIT if plot else _LIMIT)
        markup = remembered(
            lambda: draw(path, content, alternative, name), content, plot, alternative, name
        )
    except UserError as error:
        return Drawing(title, None, str(error))
    return Drawing(title, Markup(markup), photographs=not plot)


# ---- Pictures


def thumbnail(path: Path) -> str | None:
    """The image, scaled down to ``THUMBNAIL`` pixels, as a data URI; None if it cannot be read."""
    try:
        content = read_bytes(path, _LIMIT)
        return remembered(lambda: _thumbnail(path, content), content, "thumbnail")
    except UserError:
        return None


def _thumbnail(path: Path, content: bytes) -> str:
    with _opened(path, content) as file:
        if max(file.size) <= THUMBNAIL and file.format == "PNG" and len(content) < 8_000:
            return f"data:image/png;base64,{base64.b64encode(content).decode()}"
        file.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        image = _converted(path, file, "RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return _uri(image, "JPEG" if max(image.size) > 32 else "PNG")


def _picture(
    path: Path,
    content: bytes,
    title: str,
    name: str,  # unused: pictures have no ids
) -> str:
    with _opened(path, content) as file:
        width, height = file.size
        if len(content) <= _SMALL and width <= _WIDEST and file.format in ("PNG", "WEBP"):
            kind = file.format.lower()
            uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        else:
            image = _converted(path, file, "RGBA")
            image.thumbnail((_WIDEST, 10 * _WIDEST), Image.Resampling.BILINEAR, reducing_gap=2.0)
            width, height = image.size
            uri = _uri(image, "WEBP")
    return f'<img src="{uri}" alt="{escape(title)}" width="{width}" height="{height}">'


def _opened(path: Path, content: bytes) -> Image.Image:
    """The image with its header read.

    Raises:
        UserError: it is not an image, or has too many pixels to decode.
    """
    try:
        image = Image.open(
            io.BytesIO(content), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")
        )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image.") from error
    if image.width * image.height > _MOST_PIXELS:
        raise UserError(f"{path} has {image.width} x {image.height} pixels, too many to show.")
    return image


def _converted(path: Path, image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path} is not a readable image.") from error


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- SVG


def _svg(path: Path, content: bytes, title: str, name: str) -> str:
    try:
        text = content.decode()
        if "<!ENTITY" in text:  # entities may expand without bound
            raise UserError(f"{path} is not a supported SVG: it declares entities.")
        root = ElementTree.fromstring(text)
    except UserError:
        raise
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is not a supported SVG ({error}).") from error
    view = _VIEW.fullmatch(root.get("viewBox", ""))
    if root.tag != f"{_NAMESPACE}svg" or view is None:
        raise UserError(f"{path} is not a supported SVG: it has no svg element with a viewBox.")
    shapes = {f"#{e.get('id')}" for e in root.iter(f"{_NAMESPACE}path")}
    slim = _slim(root, _Source(path, f"{name}-", shapes), 0)
    # At least as wide as drawn, so that text remains legible; wider if the page is.
    slim.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": title,
        "style": f"min-width: {min(float(view[1]), 3000):.0f}px",
    }
    return ElementTree.tostring(slim, encoding="unicode")


@dataclass(frozen=True)
class _Source:
    """The file, the prefix for its ids, and the paths that <use> may refer to."""

    path: Path
    prefix: str
    shapes: set[str]


def _slim(element: ElementTree.Element, source: _Source, depth: int) -> ElementTree.Element:
    """A copy with drawing elements only, prefixed ids and coordinates rounded to 0.1 pixels."""
    if depth > _DEPTH:
        raise UserError(
            f"{source.path} is not a supported SVG: it is nested deeper than {_DEPTH} levels."
        )
    out = ElementTree.Element(element.tag.removeprefix(_NAMESPACE))
    for key, value in element.attrib.items():
        name = key.removeprefix(_XLINK)
        if name in ("href", "clip-path"):
            if _LOCAL.fullmatch(value) if name == "clip-path" else value in source.shapes:
                out.set(name, value.replace("#", f"#{source.prefix}"))
        elif name == "id":
            if out.tag != "g":  # nothing refers to a group
                out.set("id", source.prefix + value)
        elif name in _NUMBERS and not value.startswith("rotate(-0 "):
            out.set(name, _rounded(value))
        elif name == "style" and "(" not in value and "\\" not in value:
            out.set(name, re.sub(r"\s*font-family: [^;]*;", "", value))
    out.text = element.text if out.tag in ("text", "tspan") else None
    for child in element:
        if isinstance(child.tag, str) and child.tag.removeprefix(_NAMESPACE) in _TAGS:
            slim = _slim(child, source, depth + 1)
            bare = slim.tag == "g" and not slim.attrib
            out.extend(slim if bare else [slim])
    return out


def _rounded(numbers: str) -> str:
    return re.sub(
        r"-?\d{1,15}\.\d{1,30}",
        lambda found: f"{float(found[0]):.1f}".removesuffix(".0"),
        re.sub(r"\s+", " ", numbers.strip()),
    )
