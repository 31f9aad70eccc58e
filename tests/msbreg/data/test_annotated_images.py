"""Limits on image sizes, and the EXIF rotation."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msbreg.data.annotated_images import MAX_SIDE, quote, read_upright, size_problem, upright_size
from msbreg.data.decoding import UnreadableImage
from msbreg.data.scenes import Scene


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes with a size but without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + check + b"\0\0\0\0IDAT"
    )
    return path


@pytest.mark.parametrize("size", [(70_000, 10), (10, 70_000), (40_000, 40_000)])
def test_an_image_with_a_huge_size_is_rejected_by_its_header(tmp_path, size):
    file = png_header(tmp_path / "huge.png", *size)
    for read in (upright_size, lambda path: read_upright(Scene(1, path, *size, ()))):
        with pytest.raises(UnreadableImage, match=r"huge\.png .*(expected at most|exceeds limit)"):
            read(file)


def test_sizes_up_to_the_limit_are_accepted():
    assert size_problem(MAX_SIDE, 2730) is None
    assert "expected at most 65536 each" in (size_problem(MAX_SIDE + 1, 1) or "")
    assert "at most 178956970 pixels" in (size_problem(MAX_SIDE, 2731) or "")
    assert "expected both to be at least 1" in (size_problem(0, 5) or "")


def test_the_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "turned.png"
    Image.fromarray(pixels).save(file, exif=exif)
    image = np.asarray(read_upright(Scene(1, file, 3, 2, ())))
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))


def test_values_are_shortened_in_messages():
    assert quote("a" * 100) == "'" + "a" * 56 + "..."
    assert quote(1 << 20_000) == "a number of 20001 bits"
