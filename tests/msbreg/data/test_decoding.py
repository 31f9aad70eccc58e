"""Reading image files, and rejecting invalid or huge ones."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from msbreg.data.decoding import MAX_PIXELS, ImageIOError, UnreadableImage, read_image


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_rejected_by_name(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), noise)
    whole = path.read_bytes()
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match=f"cut{suffix}"):
        read_image(path)
    path.write_bytes(whole + b"\0" * 100)  # trailing bytes after the image are allowed
    assert read_image(path).shape == (64, 64, 3)


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"no image", "is not an image")])
def test_a_file_that_is_not_an_image_is_rejected_by_name(tmp_path, content, words):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=words):
        read_image(path)


def test_a_cmyk_jpeg_and_a_png_named_jpeg_become_rgb(tmp_path):
    """ImageNet contains both."""
    colors = np.zeros((32, 32, 3), np.uint8)
    colors[:16] = (200, 30, 60)
    colors[16:] = (20, 90, 220)
    cmyk = tmp_path / "cmyk.JPEG"
    Image.fromarray(colors).convert("CMYK").save(cmyk, quality=100, subsampling=0)
    with Image.open(cmyk) as file:
        assert file.mode == "CMYK"
    # The conversion between inks and RGB rounds; JPEG adds a little.
    assert np.abs(read_image(cmyk).astype(int) - colors).max() <= 6
    disguised = tmp_path / "png.JPEG"
    Image.fromarray(colors).save(disguised, format="png")
    assert np.array_equal(read_image(disguised), colors)


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "x.png"
    os.mkfifo(path)
    with pytest.raises(ImageIOError, match="not a regular file"):
        read_image(path)


def huge_png(side: int) -> bytes:
    """A valid PNG of side x side black pixels, one bit each: 124 kB for a side of 32,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + side // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_decompression_bomb_is_rejected_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(32_000))
    assert path.stat().st_size < 200_000

    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(UnreadableImage, match=rf"too large.* {MAX_PIXELS:,} pixels"):
        read_image(path)


def test_a_missing_file_is_an_io_error(tmp_path):
    with pytest.raises(ImageIOError, match="cannot be read: No such file"):
        read_image(tmp_path / "gone.png")


def test_the_exif_orientation_is_ignored(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    Image.fromarray(np.zeros((8, 24, 3), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (8, 24, 3)
