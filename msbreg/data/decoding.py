"""Read image files as 8-bit RGB. The size in the header is checked first, which bounds the memory.

The EXIF orientation is ignored, as in torchvision's readers and in published classification results.
Detection uses ``annotated_images.read_upright`` instead, because its boxes refer to the upright image.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from msbreg.run.errors import RunFailed, UserError
from msbreg.run.files import open_regular

# torchvision's IMG_EXTENSIONS. Pillow and OpenCV can decode all of them.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)

MAX_PIXELS = 178_956_970
"""Maximum number of pixels that any reader decodes, about 0.5 GB as RGB; Pillow's default limit."""


class UnreadableImage(UserError):
    """The content of a file is not an image, is truncated, or is too large to decode."""


class ImageIOError(RunFailed):
    """A file cannot be read: it is missing, access is denied, or the disk or network failed.

    ``--skip-unreadable`` does not skip such files, because the image itself may be valid.
    """


def read_image(path: Path) -> np.ndarray:  # (H, W, 3) uint8 RGB
    """Decode an image file as 8-bit RGB; the EXIF orientation is ignored.

    Raises:
        UnreadableImage: the file is empty, not an image, has more than MAX_PIXELS pixels, or ends
            before the image does.
        ImageIOError: the file cannot be read.
    """
    return decode_image(read_bytes(path), path)


def decode_image(
    data: bytes,
    path: Path | str,  # for messages
) -> np.ndarray:  # (H, W, 3) uint8 RGB
    """Decode the content of an image file; see ``read_image``.

    Raises:
        UnreadableImage: the content is not an image, is too large, or ends before the image does.
    """
    check_header(path, data)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableImage(f"{path} cannot be decoded: {str(error).strip()}") from error
    if image is None:
        raise UnreadableImage(f"{path} is not an image that OpenCV can decode ({len(data)} bytes)")
    # OpenCV fills the missing part of a truncated JPEG or PNG with gray, without an error. Look for the
    # end marker first, which is cheap; if it is absent, a stricter decoder decides.
    end = data[-64:]
    cut_jpeg = data[:2] == b"\xff\xd8" and b"\xff\xd9" not in end
    cut_png = data[:4] == b"\x89PNG" and b"IEND" not in end
    if (cut_jpeg or cut_png) and not _decodes_fully(data):
        raise UnreadableImage(
            f"{path} is truncated: the file ends before the image ({len(data)} bytes)"
        )
    return image


def read_label_map(path: Path) -> np.ndarray:  # (H, W) uint8
    """Decode a label map: the indices of a palette image, or the gray levels of an 8-bit one.

    Raises:
        UnreadableImage: the file is not an image, is too large or truncated, or stores colors.
        ImageIOError: the file cannot be read.
    """
    data = read_bytes(path)
    check_header(path, data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("P", "L", "1"):
                raise UnreadableImage(
                    f"label map {path} has mode {image.mode}; expected one label per pixel: a palette image "
                    "(P) or 8 bits of gray (L). Convert its colors to the indices of their classes"
                )
            return np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, UserError):  # a ValueError
            raise
        raise UnreadableImage(f"label map {path} cannot be decoded: {error}") from error


def read_gray16(path: Path) -> np.ndarray:  # (H, W) uint16
    """Decode an image with 16 bits of gray, such as a depth map in millimeters.

    Raises:
        UnreadableImage: the file is not an image, is too large or truncated, or stores other values.
        ImageIOError: the file cannot be read.
    """
    data = read_bytes(path)
    check_header(path, data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if not image.mode.startswith("I;16"):
                raise UnreadableImage(
                    f"{path} has mode {image.mode}; expected 16 bits of gray (I;16)"
                )
            return np.array(image, dtype=np.uint16)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, UserError):  # a ValueError
            raise
        raise UnreadableImage(f"{path} cannot be decoded: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in the header of an image file; the EXIF orientation is ignored.

    Raises:
        UnreadableImage: the file has no valid header.
        ImageIOError: the file cannot be read.
    """
    try:
        with open_regular(path) as file, Image.open(file) as image:
            return image.height, image.width
    except (UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{path} is not an image in a known format: {error}") from error
    except OSError as error:
        raise ImageIOError(f"{path} cannot be read: {error.strerror or error}") from error


def read_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        ImageIOError: the file cannot be read.
        UnreadableImage: it is empty.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise ImageIOError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise UnreadableImage(f"{path} is empty (0 bytes); expected an image")
    return data


def check_header(path: Path | str, data: bytes) -> None:
    """Check the image size given in the header, before anything is decoded.

    A PNG of 124 kB can contain 32000 x 32000 pixels, which take 3 GB.

    Raises:
        UnreadableImage: the file has no valid image header, or more than MAX_PIXELS pixels.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise UnreadableImage(_too_large(path)) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"{path} is not an image in a known format ({len(data)} bytes)"
        ) from error
    except (OSError, SyntaxError, ValueError, OverflowError) as error:
        raise UnreadableImage(f"{path} has a damaged header: {error}") from error
    if width * height > MAX_PIXELS:
        raise UnreadableImage(_too_large(path))


def _too_large(path: Path | str) -> str:
    return (
        f"{path} is too large: its header gives more than {MAX_PIXELS:,} pixels, which is the maximum.\n"
        "Resize the image, or remove it from the data set."
    )


def _decodes_fully(data: bytes) -> bool:
    """Whether Pillow, which does not fill in missing parts, can decode the complete image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
