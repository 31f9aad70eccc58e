"""Drawings and photographs become harmless, small elements of the page."""

import struct
import zlib

import pytest
from PIL import Image

from tests.transfer.report.records import SVG
from transfer.report.embedded_pictures import THUMBNAIL, Budget, read_drawing, thumbnail


def test_only_shapes_and_text_of_an_svg_are_embedded(tmp_path):
    evil = SVG.replace(
        "<g ",
        "<script>alert(1)</script><style>*{color:red}</style><foreignObject><b>x</b></foreignObject>"
        '<image href="http://example.org/a.png"/><a href="http://example.org">x</a>'
        '<text onclick="alert(1)" style="fill: url(http://example.org)">&lt;b&gt;</text>'
        '<use href="http://example.org/a.svg#b"/><g ',
        1,
    )
    (tmp_path / "a.svg").write_text(evil)
    markup = read_drawing(tmp_path / "a.svg", 'of "boxes"', name="one").markup
    for word in ("script", "style>", "foreignObject", "image", "onclick", "http", "alert", "<b>"):
        assert word not in markup
    assert "&lt;b&gt;" in markup
    assert 'aria-label="of &quot;boxes&quot;"' in markup


def test_an_svg_keeps_its_content_with_prefixed_ids(tmp_path):
    (tmp_path / "a.svg").write_text(SVG)
    markup = read_drawing(tmp_path / "a.svg", "curves", name="one").markup
    assert 'd="M 1.2 2 L 2.5 2 L 3.5 2 L 4.8 1"' in markup
    assert 'clip-path="url(#one-clip)"' in markup
    assert 'viewBox="0 0 684 280"' in markup


def test_a_reference_may_only_point_to_a_single_path(tmp_path):
    bomb = '<g id="a"><use href="#tick"/><use href="#tick"/></g><use href="#a"/><use href="#a"/>'
    (tmp_path / "a.svg").write_text(SVG.replace("<text>", f"{bomb}<text>"))
    markup = read_drawing(tmp_path / "a.svg", "curves", name="one").markup
    assert markup.count('href="#one-tick"') == 2
    assert 'href="#one-a"' not in markup


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<svg", "not a supported SVG"),
        (b"", "not a supported SVG"),
        (b"<html/>", "no svg element"),
        (b"\xff\xfe\xfa", "not a supported SVG"),
        (SVG.replace("684 280", "1e99 NaN").encode(), "no svg element with a viewBox"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + SVG.encode(), "entities"),
        (SVG.replace("<text>", "<g>" * 500 + "</g>" * 500 + "<text>").encode(), "deeper"),
        (SVG.replace("<text>", "<g>" * 90_000).encode(), "not a supported SVG"),
        (b" " * 3_000_000, "larger than 2 MB"),
    ],
)
def test_an_unsupported_svg_is_reported_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.svg").write_bytes(content)
    drawing = read_drawing(tmp_path / "a.svg", "curves", name="one")
    assert drawing.markup is None
    assert "a.svg" in drawing.problem
    assert reason in drawing.problem


def test_a_picture_that_is_wider_than_the_page_is_scaled_down(tmp_path):
    Image.new("RGBA", (2800, 100), (0, 90, 0, 255)).save(tmp_path / "a.png")
    markup = read_drawing(tmp_path / "a.png", "a", name="a").markup
    assert 'width="1400" height="50"' in markup
    assert "data:image/webp" in markup


def test_a_small_picture_is_embedded_unchanged(tmp_path):
    Image.new("RGBA", (40, 30)).save(tmp_path / "a.webp")
    markup = read_drawing(tmp_path / "a.webp", "a", name="a").markup
    assert "data:image/webp;base64," in markup
    assert 'width="40" height="30"' in markup


def huge_png():
    """The header of a PNG of 60,000 x 60,000 pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"no picture", huge_png(), b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_not_a_picture_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert "a.png" in read_drawing(tmp_path / "a.png", "a", name="a").problem
    assert thumbnail(tmp_path / "a.png") is None


def test_a_photograph_becomes_a_thumbnail_and_a_tiny_image_is_unchanged(tmp_path):
    Image.effect_noise((640, 480), 50).convert("RGB").save(tmp_path / "a.jpg")
    assert len(thumbnail(tmp_path / "a.jpg")) < 5_000
    Image.new("RGB", (THUMBNAIL // 4, THUMBNAIL // 4)).save(tmp_path / "b.png")
    assert thumbnail(tmp_path / "b.png").startswith("data:image/png;base64,")


def test_a_budget_is_kept_and_omitted_pictures_are_named(tmp_path):
    (tmp_path / "a.svg").write_text(SVG)
    size = len(read_drawing(tmp_path / "a.svg", "a", name="drawing1").markup)
    budget = Budget(characters=size + 5, files=9)
    assert budget.drawing(tmp_path / "a.svg", "a").markup
    assert "to keep this page small: see" in budget.drawing(tmp_path / "a.svg", "a").problem
    assert (
        "to keep this page small" in Budget(10**6, files=0).drawing(tmp_path / "a.svg", "a").problem
    )
