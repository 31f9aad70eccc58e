"""Checks shared by all readers of annotations (image sizes, boxes, image files), and upright images.

Readers follow Detectron2. Irregular data that it accepts are accepted, counted and reported (``Oddities``).
Data that would crash it or are contradictory raise an error. In strict mode, every oddity is an error.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from msbreg.data.decoding import MAX_PIXELS, UnreadableImage
from msbreg.data.scenes import Scene
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

# ---- Image sizes: the same limits for annotated sizes and decoded images

MAX_SIDE = 2**16
"""Maximum side of an image, in pixels; ``decoding.MAX_PIXELS`` limits the area.

JPEG is limited to 65,535 pixels per side. pycocotools crashes on much larger sizes, such as a width of
250,000,000.
"""


def size_problem(height: int, width: int) -> str | None:
    """Describe what is wrong with the size of an image, as a noun phrase; None if it is valid."""
    if min(height, width) < 1:
        return f"height {quote(height)} and width {quote(width)}; expected both to be at least 1"
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        return (
            f"height {quote(height)} and width {quote(width)}; expected at most {MAX_SIDE} each and at "
            f"most {MAX_PIXELS} pixels"
        )
    return None


# ---- Irregular annotations that Detectron2 accepts


BORDER = 1.0
"""Pixels by which a box may extend beyond its image without being reported.

Annotators count pixels from 0 or from 1, and give the last pixel or the one after it, so boxes that touch the
border can be off by one pixel, especially in VOC. COCO's boxes are off by rounding. Boxes are not changed:
training clips them, scoring does not, as in Detectron2.
"""


class Oddity(Enum):
    """An irregularity in annotations and how it is handled, which is how Detectron2 handles it."""

    EMPTY_BOX = "boxes without width or height: dropped in training, counted in scoring"
    FLIPPED_BOX = "boxes with a negative width or height: their edges are swapped in training"
    OUTSIDE_BOX = "boxes that extend beyond their image: clipped in training"
    SHORT_RING = "polygons with fewer than three points or an odd number of coordinates: dropped"
    NO_RING = "objects without a valid polygon: dropped in training, counted in scoring with an empty mask"
    OTHER_IMAGE = "annotations of an image that is not listed: dropped"
    SAME_IMAGE_ID = "images with an id that is used again later: dropped, only the last one is kept"
    NO_AREA = "areas that are not numbers: replaced by the area of the mask or box"
    CROWD_VALUE = "values of iscrowd other than 0 and 1: read as 1"
    DIFFICULT_VALUE = "values of difficult other than 0 and 1: read as 1"
    TRUNCATED_VALUE = "values of truncated other than 0 and 1: ignored"


class Oddities:
    """Counts the oddities of a data set and keeps the first of each kind as an example.

    Args:
        source: file or folder of the annotations, for messages.
        strict: raise an error for the first oddity instead of counting.
    """

    def __init__(self, source: Path, *, strict: bool) -> None:
        self.source, self.strict = source, strict
        self._counts: dict[Oddity, int] = {}
        self._examples: dict[Oddity, str] = {}

    def add(self, kind: Oddity, example: str) -> None:
        """Count an oddity.

        Args:
            example: location and value, such as ``annotation id 3: bbox [0, 0, 0, 8]``.

        Raises:
            UserError: ``strict`` is set.
        """
        if self.strict:
            raise UserError(f"{example}: {kind.value.partition(':')[0]} (--strict-data)")
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, example)

    def counts(self) -> dict[str, int]:
        """Kind in lower case -> count, for the record."""
        return {kind.name.lower(): self._counts[kind] for kind in Oddity if kind in self._counts}

    def sentences(self) -> tuple[str, ...]:
        """One warning for each kind."""
        return tuple(
            f"{self.source}: {self._counts[kind]} {kind.value}; the first is {self._examples[kind]}"
            for kind in Oddity
            if kind in self._counts
        )


def box_oddity(width: float, height: float, beyond: float) -> Oddity | None:
    """The most severe oddity of a box, or None.

    Args:
        beyond: pixels by which the box extends beyond its image.
    """
    if width < 0 or height < 0:
        return Oddity.FLIPPED_BOX
    if width == 0 or height == 0:
        return Oddity.EMPTY_BOX
    return Oddity.OUTSIDE_BOX if beyond > BORDER else None


# ---- Messages


@contextlib.contextmanager
def advising() -> Iterator[None]:
    """Add advice to errors about an invalid annotation or image."""
    try:
        yield
    except UserError as error:
        raise type(error)(
            f"{str(error).rstrip('.')}.\n"
            "Fix it or remove it from the data set, then run the same command again."
        ) from error


def quote(value: Any, length: int = 60) -> str:
    """The ``repr`` of a value, shortened for a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= length else text[: length - 3] + "..."


# ---- Image files


EXIF_ORIENTATION = 0x0112  # number of the tag in the Exif standard
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_THREADS = 8  # reading headers from a slow disk is much faster in parallel


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image after its EXIF rotation, read from the header only.

    A PNG may store its EXIF data after the pixels; such a rotation is only known after decoding.

    Raises:
        UnreadableImage: the file is missing, is not an image, or is too large.
    """
    with _opened(path) as image:
        width, height = image.size
        exif_in_header = image.format != "PNG" or "exif" in image.info
        sideways = exif_in_header and orientation(image) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image and check its size; decoding errors in the body become UnreadableImage."""
    try:
        with open_regular(path) as file, Image.open(file) as image:
            problem = size_problem(image.height, image.width)
            if problem:
                raise UnreadableImage(f"{_printable(path)} has {problem}")
            yield image
    except UnreadableImage:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(
            f"{_printable(path)} cannot be decoded: {why_unreadable(path, error)}"
        ) from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it is missing or invalid."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged metadata can raise anything; Detectron2 ignores it
        return 1
    return value if isinstance(value, int) else 1


def check_images(scenes: Sequence[Scene], *, annotated_in: Callable[[Scene], str]) -> None:
    """Check that every image exists and has the size given in its annotations.

    Args:
        annotated_in: returns where the size of a scene is given, for the message.

    Raises:
        UserError: an image is missing, cannot be read, or has another size; the message names the first.
    """
    # os.path.isfile, unlike Path.is_file, accepts names that no file system supports.
    missing = [scene for scene in scenes if not os.path.isfile(scene.file)]
    if missing:
        raise UserError(
            f"missing images: {len(missing)} of {len(scenes)}, the first: "
            f"{_printable(missing[0].file)} (annotated in {annotated_in(missing[0])})"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(lambda scene: upright_size(scene.file), scenes)
        for scene, size in zip(scenes, sizes, strict=True):
            if size != (scene.height, scene.width):
                check_size(scene, size, annotated_in(scene))


def check_size(scene: Scene, size: tuple[int, int], where: str) -> None:
    """Check that the (height, width) of an image matches its annotations.

    Raises:
        UserError: it does not.
    """
    height, width = size
    if (height, width) == (scene.height, scene.width):
        return
    hint = ""
    if (width, height) == (scene.height, scene.width):
        hint = "; height and width are swapped, or do not account for the EXIF rotation"
    raise UserError(
        f"{scene.file} has {width} x {height} pixels (width x height) after its EXIF rotation, but "
        f"{where} gives {scene.width} x {scene.height}{hint}"
    )


def why_unreadable(path: Path, error: Exception) -> str:
    """The reason in an error of Pillow or the system about an image."""
    if isinstance(error, UnidentifiedImageError):  # its message only contains the path
        return f"its {path.stat().st_size} bytes are not in a known image format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _printable(path: Path) -> str:
    """The path for a message; very long and unprintable names are quoted and shortened."""
    text = str(path)
    return text if len(text) <= 300 and text.isprintable() else quote(text, 300)


# ---- Reading images like Detectron2: Pillow, EXIF rotation, RGB


# EXIF orientation -> operation that makes the image upright (detectron2/data/detection_utils.py).
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_upright(scene: Scene) -> Image.Image:  # mode RGB
    """Decode the image of a scene and apply its EXIF rotation.

    Raises:
        UserError: the file is missing, too large or not completely decodable, or has another size than its
            annotations.
    """
    with _opened(scene.file) as file:
        transpose = _TRANSPOSES.get(orientation(file))
        image = (file if transpose is None else file.transpose(transpose)).convert("RGB")
    check_size(scene, (image.height, image.width), "its annotation")
    return image
