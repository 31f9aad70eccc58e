"""Run lengths match pycocotools, and input that would make it access invalid memory is rejected."""

import numpy as np
import pytest
from pycocotools import mask as codec

from msbreg.data import run_lengths as masks
from msbreg.run.errors import UserError
from tests.reference import run_lengths as slow


def drawn(seed, height, width, count=3):
    rng = np.random.default_rng(seed)
    return rng.random((count, height, width)) < rng.random()


SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (40, 33), (300, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_decoding_inverts_encoding(size):
    for seed in range(5):
        pixels = drawn(seed, *size)
        for original, mask in zip(pixels, masks.encode(pixels), strict=True):
            np.testing.assert_array_equal(masks.decode(mask), original)


@pytest.mark.parametrize("size", SIZES)
def test_encoding_matches_pycocotools(size):
    pixels = drawn(0, *size)
    for original, mask in zip(pixels, masks.encode(pixels), strict=True):
        theirs = codec.encode(np.asfortranarray(original.astype(np.uint8)))
        assert mask == {"size": list(size), "counts": theirs["counts"].decode()}


@pytest.mark.parametrize("size", SIZES)
def test_decoding_matches_the_reference(size):
    for mask in masks.encode(drawn(1, *size)):
        np.testing.assert_array_equal(masks.decode(mask), slow.decode(mask))


def test_full_masks_empty_masks_and_no_masks_can_be_encoded():
    pixels = np.stack([np.zeros((6, 4), bool), np.ones((6, 4), bool)])
    encoded = masks.encode(pixels)
    assert masks.area(encoded).tolist() == [0, 24]
    np.testing.assert_array_equal([masks.decode(mask) for mask in encoded], pixels)
    assert masks.encode(pixels[:0]) == ()
    assert masks.area([]).shape == (0,)
    assert masks.boxes_around([]).shape == (0, 4)


def test_area_and_box_match_the_pixels():
    pixels = np.zeros((1, 20, 30), bool)
    pixels[0, 3:7, 10:22] = True
    encoded = masks.encode(pixels)
    assert masks.area(encoded).tolist() == [48]
    assert masks.boxes_around(encoded).tolist() == [[10, 3, 22, 7]]


def test_polygons_are_rasterized_as_their_union():
    square, other = (2, 3, 12, 3, 12, 8, 2, 8), (8, 3, 20, 3, 20, 8, 8, 8)
    mask = masks.decode(masks.polygons_to_rle((square, other), 15, 25))
    expected = np.zeros((15, 25), bool)
    expected[3:8, 2:20] = True
    np.testing.assert_array_equal(mask, expected)


def test_all_three_mask_formats_become_compressed_run_lengths():
    pixels = np.zeros((1, 4, 3), bool)
    pixels[0, 1:3, 1:] = True
    compressed = masks.encode(pixels)[0]
    assert masks.to_rle(compressed, 4, 3) == compressed
    assert masks.to_rle({"size": [4, 3], "counts": [5, 2, 2, 2, 1]}, 4, 3) == compressed
    assert masks.to_rle(((1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0),), 4, 3) == compressed
    as_bytes = {"size": [4, 3], "counts": compressed["counts"].encode()}
    assert masks.to_rle(as_bytes, 4, 3) == compressed


@pytest.mark.parametrize("counts", ["", "0", "zzz", "11f00", "é", "S", "o" * 40, "1P", "\ud800"])
def test_invalid_counts_are_rejected(counts):
    with pytest.raises(UserError, match=r"pixels|run lengths"):
        masks.decode({"size": [5, 7], "counts": counts})


def test_negative_runs_are_rejected():
    # The sum, 35, is right, but one run is negative.
    counts = slow.characters([10, 30, -5])
    with pytest.raises(UserError, match="of its image"):
        masks.decode({"size": [5, 7], "counts": counts})


def test_one_invalid_mask_among_valid_ones_is_rejected():
    good = masks.encode(drawn(2, 10, 12, count=4))
    masks.check_runs(good, 10, 12)
    masks.check_runs([], 10, 12)
    short = {"size": [10, 12], "counts": slow.characters([119])}
    with pytest.raises(
        UserError, match=r"runs of 119 pixels in total; expected \[10, 12\] and 120"
    ):
        masks.check_runs([*good, short, *good], 10, 12)
    with pytest.raises(UserError, match=r"size \[12, 10\]; expected \[10, 12\]"):
        masks.check_runs(masks.encode(drawn(2, 12, 10)), 10, 12)


def test_uncompressed_run_lengths_with_a_wrong_size_or_sum_are_rejected():
    with pytest.raises(UserError, match=r"expected \[4, 3\] and 12 pixels"):
        masks.to_rle({"size": [4, 3], "counts": [5, 2]}, 4, 3)
    with pytest.raises(UserError, match=r"of size \[3, 4\]"):
        masks.to_rle({"size": [3, 4], "counts": [12]}, 4, 3)


@pytest.mark.parametrize("rings", [(), ((1, 2, 3, 4),), ((1, 2, 3, 4, 5, 6, 7),)])
def test_rings_with_fewer_than_three_points_are_rejected(rings):
    with pytest.raises(UserError, match="expected rings"):
        masks.polygons_to_rle(rings, 10, 10)


def test_an_object_without_rings_has_an_empty_mask():
    mask = masks.to_rle((), 5, 7)
    assert masks.area([mask]).tolist() == [0]
    np.testing.assert_array_equal(masks.decode(mask), np.zeros((5, 7), bool))
