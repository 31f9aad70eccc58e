"""What every reader of annotations asks of boxes and of image files before a run starts.

The pixels of a scene as Detectron2 reads them: Pillow, EXIF rotation, RGB.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from msbreg.data.folder import UnreadableImage
from msbreg.data.scenes import Box, Scene
from msbreg.run.errors import UserError

# ---- What every reader of annotations asks of boxes and of image files before a run starts


BORDER = 1.0
"""Pixels that a box may reach beyond each side of its image.

Annotators count pixels from 0 or from 1 and name the last pixel or the one after it, so that boxes
that touch the border lie one pixel outside of it, VOC's above all; COCO's are off by rounding. Such
boxes are kept as they are: training clips them, scoring does not, and Detectron2 does the same.
"""
EXIF_ORIENTATION = 0x0112  # the tag's number in the Exif standard
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width
_THREADS = 8  # on a slow disk headers arrive many at a time; on a fast one threads cost little


@contextlib.contextmanager
def mending() -> Iterator[None]:
    """Say what to do about an entry or an image that cannot be used."""
    try:
        yield
    except UserError as error:
        raise type(error)(
            f"{str(error).rstrip('.')}.\n"
            "Mend it or take it out of the data set, then give the same command again."
        ) from error


def box_problem(box: Box, height: int, width: int) -> str | None:
    """What is wrong with an annotated box, as the end of a sentence; None if nothing is."""
    left, top, right, bottom = box
    if not all(math.isfinite(value) for value in box):
        return "is not finite"
    if right <= left or bottom <= top:
        return f"has width {right - left:g} and height {bottom - top:g}; expected both above 0"
    beyond = max(-left, -top, right - width, bottom - height)
    if beyond > BORDER:
        return (
            f"reaches {beyond:g} pixels beyond its image of {width} x {height} (width x height); "
            f"expected at most {BORDER:g}"
        )
    return None


def quote(value: Any, length: int = 60) -> str:
    """The value as it was given, shortened for a message."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image after its EXIF rotation, from the header alone.

    A PNG may state its rotation after the pixels; that is seen only when it is decoded.

    Raises:
        UnreadableImage: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            told_early = image.format != "PNG" or "exif" in image.info
            turned = told_early and orientation(image) in _SIDEWAYS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{path} cannot be decoded: {why_unreadable(path, error)}") from error
    return (width, height) if turned else (height, width)


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where there is none, or none that can be read."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged metadata raise anything; Detectron2 takes them as none
        return 1
    return value if isinstance(value, int) else 1


def check_images(scenes: Sequence[Scene], *, annotated_in: Callable[[Scene], str]) -> None:
    """Every image is there and has the size that its annotations state.

    Args:
        annotated_in: where the size of a scene is stated, for the message.

    Raises:
        UserError: images are missing, are none, or have other sizes; the first is named.
    """
    missing = [scene for scene in scenes if not scene.file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(scenes)} images are missing, the first: {missing[0].file} "
            f"(annotated in {annotated_in(missing[0])})"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(lambda scene: upright_size(scene.file), scenes)
        for scene, size in zip(scenes, sizes, strict=True):
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
    """What Pillow's or the system's error says of an image."""
    if isinstance(error, UnidentifiedImageError):  # whose own words are the path alone
        return f"its {path.stat().st_size} bytes are in no known image format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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
        UserError: the file is missing, cannot be decoded to its end, or has another size than stated.
    """
    try:
        with Image.open(scene.file) as file:
            turn = _TURNS.get(orientation(file))
            image = (file if turn is None else file.transpose(turn)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(
            f"{scene.file} cannot be decoded: {why_unreadable(scene.file, error)}"
        ) from error
    check_size(scene, (image.height, image.width), "its annotation")
    return image
