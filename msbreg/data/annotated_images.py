"""Checks that all readers of annotations share: image sizes, boxes, image files; and upright pixels.

Readers follow Detectron2: what it accepts is accepted, counted and reported (``Oddities``); what would
crash it, or cannot be true, is an error. Strict reading turns each oddity into an error.
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

# ---- Image sizes: one absolute bound for stated sizes and for decoded images

MAX_SIDE = 2**16
"""The longest side that is read, in pixels; ``decoding.MAX_PIXELS`` bounds their product.

JPEG's sides end at 65,535. pycocotools crashes on much larger sizes, such as a width of 250,000,000.
"""


def size_problem(height: int, width: int) -> str | None:
    """What is wrong with the size of an image, as a noun phrase; None if nothing is."""
    if min(height, width) < 1:
        return f"height {quote(height)} and width {quote(width)}; expected both above 0"
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        return (
            f"height {quote(height)} and width {quote(width)}; expected at most {MAX_SIDE} each and "
            f"{MAX_PIXELS} pixels in all"
        )
    return None


# ---- What Detectron2 accepts although it is odd


BORDER = 1.0
"""Pixels that a box may reach beyond each side of its image without being odd.

Annotators count pixels from 0 or from 1 and name the last pixel or the one after it, so that boxes
that touch the border lie one pixel outside of it, VOC's above all; COCO's are off by rounding. Boxes
are kept as they are: training clips them, scoring does not, and Detectron2 does the same.
"""


class Oddity(Enum):
    """What is odd, and what becomes of it: Detectron2's treatment, at the same stage."""

    EMPTY_BOX = "boxes without width or height: training drops them, scoring counts them"
    FLIPPED_BOX = "boxes with a negative width or height: training swaps their edges"
    OUTSIDE_BOX = "boxes that reach outside their image: training clips them"
    SHORT_RING = "polygons without three points (6 numbers, an even count): dropped"
    NO_RING = (
        "objects with no polygon of three points: training drops them, scoring counts them, with an "
        "empty mask"
    )
    OTHER_IMAGE = "annotations of an image that is not listed: dropped"
    SAME_IMAGE_ID = "images whose id is used again further down: dropped, the last one is kept"
    NO_AREA = "areas that are not numbers: ignored, the area of the mask or box is used"
    CROWD_VALUE = "values of iscrowd other than 0 and 1: read as 1"
    DIFFICULT_VALUE = "values of difficult other than 0 and 1: read as 1"
    TRUNCATED_VALUE = "values of truncated other than 0 and 1: ignored"


class Oddities:
    """Counts oddities of one data set and keeps the first of each kind as an example.

    Args:
        source: file or folder of the annotations, for messages.
        strict: raise an error at the first one instead.
    """

    def __init__(self, source: Path, *, strict: bool) -> None:
        self.source, self.strict = source, strict
        self._counts: dict[Oddity, int] = {}
        self._examples: dict[Oddity, str] = {}

    def add(self, kind: Oddity, example: str) -> None:
        """Count one.

        Args:
            example: where it is and what it is, such as ``annotation id 3: bbox [0, 0, 0, 8]``.

        Raises:
            UserError: reading is strict.
        """
        if self.strict:
            raise UserError(f"{example}: {kind.value.partition(':')[0]} (--strict-data)")
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, example)

    def counts(self) -> dict[str, int]:
        """Kind, in lower case -> how many; for the record."""
        return {kind.name.lower(): self._counts[kind] for kind in Oddity if kind in self._counts}

    def sentences(self) -> tuple[str, ...]:
        """One warning a kind."""
        return tuple(
            f"{self.source}: {self._counts[kind]} {kind.value}; the first: {self._examples[kind]}"
            for kind in Oddity
            if kind in self._counts
        )


def box_oddity(width: float, height: float, beyond: float) -> Oddity | None:
    """Which oddity a box has, the worst first.

    Args:
        beyond: pixels by which it reaches beyond its image.
    """
    if width < 0 or height < 0:
        return Oddity.FLIPPED_BOX
    if width == 0 or height == 0:
        return Oddity.EMPTY_BOX
    return Oddity.OUTSIDE_BOX if beyond > BORDER else None


# ---- Messages


@contextlib.contextmanager
def advising() -> Iterator[None]:
    """Say what to do about an entry or an image that cannot be used."""
    try:
        yield
    except UserError as error:
        raise type(error)(
            f"{str(error).rstrip('.')}.\n"
            "Fix it or remove it from the data set, then run the same command again."
        ) from error


def quote(value: Any, length: int = 60) -> str:
    """The value as it was given, shortened for a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= length else text[: length - 3] + "..."


# ---- Image files


EXIF_ORIENTATION = 0x0112  # the tag's number in the Exif standard
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width
_THREADS = 8  # on a slow disk headers arrive many at a time; on a fast one threads cost little


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image after its EXIF rotation, from the header alone.

    A PNG may state its rotation after the pixels; that is seen only when it is decoded.

    Raises:
        UnreadableImage: the file is missing, not an image, or larger than ``MAX_PIXELS``.
    """
    with _opened(path) as image:
        width, height = image.size
        stated_early = image.format != "PNG" or "exif" in image.info
        turned = stated_early and orientation(image) in _SIDEWAYS
    return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, its header read and its size checked; errors of decoding it are UnreadableImage."""
    try:
        with Image.open(path) as image:
            problem = size_problem(image.height, image.width)
            if problem:
                raise UnreadableImage(f"{_shown(path)} has {problem}")
            yield image
    except UnreadableImage:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(
            f"{_shown(path)} cannot be decoded: {why_unreadable(path, error)}"
        ) from error


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where there is none, or none that can be read."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged metadata raise anything; Detectron2 ignores them
        return 1
    return value if isinstance(value, int) else 1


def check_images(scenes: Sequence[Scene], *, annotated_in: Callable[[Scene], str]) -> None:
    """Every image exists and has the size that its annotations state.

    Args:
        annotated_in: where the size of a scene is stated, for the message.

    Raises:
        UserError: images are missing, cannot be read, or have other sizes; the first is named.
    """
    # os.path.isfile, unlike Path.is_file, takes names that no file system can hold.
    missing = [scene for scene in scenes if not os.path.isfile(scene.file)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(scenes)} images are missing, the first: "
            f"{_shown(missing[0].file)} (annotated in {annotated_in(missing[0])})"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(lambda scene: upright_size(scene.file), scenes)
        for scene, size in zip(scenes, sizes, strict=True):
            if size != (scene.height, scene.width):
                check_size(scene, size, annotated_in(scene))


def check_size(scene: Scene, size: tuple[int, int], where: str) -> None:
    """The image's (height, width) is the one stated.

    Raises:
        UserError: it is another.
    """
    height, width = size
    if (height, width) == (scene.height, scene.width):
        return
    hint = ""
    if (width, height) == (scene.height, scene.width):
        hint = "; height and width are exchanged, or were noted before the EXIF rotation"
    raise UserError(
        f"{scene.file} is {width} x {height} pixels (width x height), after its EXIF rotation; "
        f"{where} states {scene.width} x {scene.height}{hint}"
    )


def why_unreadable(path: Path, error: Exception) -> str:
    """What Pillow's or the system's error says about an image."""
    if isinstance(error, UnidentifiedImageError):  # whose own words are the path alone
        return f"its {path.stat().st_size} bytes are in no known image format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _shown(path: Path) -> str:
    """A path in a message: a name of thousands of characters, or of bytes that are not text, is quoted."""
    text = str(path)
    return text if len(text) <= 300 and text.isprintable() else quote(text, 300)


# ---- The pixels of a scene as Detectron2 reads them: Pillow, EXIF rotation, RGB


_TURNS = {  # EXIF's orientation -> what makes the image upright (detectron2/data/detection_utils.py)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_upright(scene: Scene) -> Image.Image:  # mode RGB
    """The whole image, turned as its EXIF data say.

    Raises:
        UserError: the file is missing, too large, cannot be decoded to its end, or has another size
            than stated.
    """
    with _opened(scene.file) as file:
        turn = _TURNS.get(orientation(file))
        image = (file if turn is None else file.transpose(turn)).convert("RGB")
    check_size(scene, (image.height, image.width), "its annotation")
    return image
