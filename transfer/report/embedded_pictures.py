"""Files that runs drew, and photographs, as elements of the page.

SVG becomes part of the page, in its font and colors; only lines, areas and text of the file are taken
over, so that a file cannot bring a script, a style sheet or an address along. A picture that is small
enough is embedded as it is; others are scaled down.
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

THUMBNAIL = 64  # pixels of a neighbor's picture on the page
_LIMIT = 30_000_000  # bytes of a picture's file
_SVG_LIMIT = 2_000_000  # bytes of an SVG file
_MOST_PIXELS = 60_000_000
_SMALL = 250_000  # bytes of a picture that is embedded unchanged
_WIDEST = 1400  # pixels of an embedded picture
_DEPTH = 30  # of an SVG
_NAMESPACE, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_TAGS = frozenset({"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"})
_NUMBERS = frozenset({"d", "x", "y", "width", "height", "transform"})
_LOCAL = re.compile(r"#[\w.-]+|url\(#[\w.-]+\)")
_VIEW = re.compile(r"\s*-?[\d.]{1,12}\s+-?[\d.]{1,12}\s+([\d.]{1,12})\s+[\d.]{1,12}\s*")


@dataclass(frozen=True)
class Drawing:
    """One file of a run: its markup, or the problem that it has."""

    title: str
    markup: Markup | None
    problem: str = ""


class Budget:
    """Room for pictures on one page.

    Args:
        characters: that all pictures may take together.
        files: that may be decoded.
    """

    def __init__(self, characters: int, files: int) -> None:
        self.characters, self.files = characters, files
        self._count = 0

    def drawing(self, path: Path, title: str) -> Drawing:
        """The drawing, or why the page does not show it."""
        if self.files <= 0 or self.characters <= 0:
            return Drawing(title, None, f"Left out to keep this page small: see {path}.")
        self.files -= 1
        self._count += 1
        drawing = read_drawing(path, title, name=f"drawing{self._count}")
        size = len(drawing.markup or "")
        if size > self.characters:
            return Drawing(title, None, f"Left out to keep this page small: see {path}.")
        self.characters -= size
        return drawing

    def thumbnail(self, path: str) -> str | None:
        """The image as a data URI; None if it cannot be read or there is no room."""
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
    name: str,  # unique on the page: a prefix of the ids in an SVG
) -> Drawing:
    """The file as an element of the page, or the problem that it has."""
    try:
        markup = _svg(path, title, name) if path.suffix == ".svg" else _picture(path, title)
    except UserError as error:
        return Drawing(title, None, str(error))
    return Drawing(title, Markup(markup))


# ---- Pictures


def thumbnail(path: Path) -> str | None:
    """The image, at most ``THUMBNAIL`` pixels high and wide, as a data URI; None if it cannot be read."""
    try:
        content = read_bytes(path, _LIMIT)
        with _opened(path, content) as file:
            if max(file.size) <= THUMBNAIL and file.format == "PNG" and len(content) < 8_000:
                return f"data:image/png;base64,{base64.b64encode(content).decode()}"
            file.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            image = _converted(path, file, "RGB")
    except UserError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return _uri(image, "JPEG" if max(image.size) > 32 else "PNG")


def _picture(path: Path, title: str) -> str:
    content = read_bytes(path, _LIMIT)
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
        raise UserError(f"{path} is not an image that can be read.") from error
    if image.width * image.height > _MOST_PIXELS:
        raise UserError(f"{path} has {image.width} x {image.height} pixels, too many to show.")
    return image


def _converted(path: Path, image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path} is not an image that can be read.") from error


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- SVG


def _svg(path: Path, title: str, name: str) -> str:
    content = read_bytes(path, _SVG_LIMIT)
    try:
        text = content.decode()
        if "<!ENTITY" in text:  # entities may expand without bound
            raise UserError(f"{path} is not an SVG that can be shown: it declares entities.")
        root = ElementTree.fromstring(text)
    except UserError:
        raise
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is not an SVG that can be shown ({error}).") from error
    view = _VIEW.fullmatch(root.get("viewBox", ""))
    if root.tag != f"{_NAMESPACE}svg" or view is None:
        raise UserError(f"{path} is not an SVG that can be shown: no svg element with a viewBox.")
    shapes = {f"#{e.get('id')}" for e in root.iter(f"{_NAMESPACE}path")}
    slim = _slim(root, _Place(path, f"{name}-", shapes), 0)
    # As wide as it was drawn, in pixels, or as the page where that is wider: text stays readable.
    slim.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": title,
        "style": f"min-width: {min(float(view[1]), 3000):.0f}px",
    }
    return ElementTree.tostring(slim, encoding="unicode")


@dataclass(frozen=True)
class _Place:
    """The file, the prefix of its ids, and the references that <use> may have: to single paths."""

    path: Path
    prefix: str
    shapes: set[str]


def _slim(element: ElementTree.Element, place: _Place, depth: int) -> ElementTree.Element:
    """The element with what draws, its ids prefixed, coordinates to a tenth of a pixel."""
    if depth > _DEPTH:
        raise UserError(
            f"{place.path} is not an SVG that can be shown: nested deeper than {_DEPTH} levels."
        )
    out = ElementTree.Element(element.tag.removeprefix(_NAMESPACE))
    for key, value in element.attrib.items():
        name = key.removeprefix(_XLINK)
        if name in ("href", "clip-path"):
            if _LOCAL.fullmatch(value) if name == "clip-path" else value in place.shapes:
                out.set(name, value.replace("#", f"#{place.prefix}"))
        elif name == "id":
            if out.tag != "g":  # nothing refers to a group
                out.set("id", place.prefix + value)
        elif name in _NUMBERS and not value.startswith("rotate(-0 "):
            out.set(name, _rounded(value))
        elif name == "style" and "(" not in value and "\\" not in value:
            out.set(name, re.sub(r"\s*font-family: [^;]*;", "", value))
    out.text = element.text if out.tag in ("text", "tspan") else None
    for child in element:
        if isinstance(child.tag, str) and child.tag.removeprefix(_NAMESPACE) in _TAGS:
            slim = _slim(child, place, depth + 1)
            bare = slim.tag == "g" and not slim.attrib
            out.extend(slim if bare else [slim])
    return out


def _rounded(numbers: str) -> str:
    return re.sub(
        r"-?\d{1,15}\.\d{1,30}",
        lambda found: f"{float(found[0]):.1f}".removesuffix(".0"),
        re.sub(r"\s+", " ", numbers.strip()),
    )
