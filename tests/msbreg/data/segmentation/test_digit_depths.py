"""Depths of the embedded digits."""

from pathlib import Path

import numpy as np
import pytest

from msbreg.data.scenes import Instance, Scene
from msbreg.data.segmentation.digit_depths import FOCAL_LENGTH, digit_depth, open_digit_depths
from msbreg.run.errors import UserError


def scene(*objects: tuple[int, tuple[float, float, float, float]]) -> Scene:
    instances = tuple(Instance(box, label) for label, box in objects)
    return Scene("a", Path("a.jpg"), 8, 8, instances)


def test_a_digit_twice_as_tall_is_half_as_far():
    labels = np.zeros((8, 8), np.uint8)
    labels[0:2, 0:2] = labels[4:8, 4:6] = 5
    found = digit_depth(labels, scene((4, (0, 0, 2, 2)), (4, (4, 4, 6, 8))))
    assert found[0, 0] == pytest.approx(3 * FOCAL_LENGTH / 2)
    assert found[4, 4] == found[0, 0] / 2


def test_background_and_borders_have_no_depth():
    labels = np.zeros((8, 8), np.uint8)
    labels[2:6, 2:6], labels[1, 2:6] = 1, 255
    found = digit_depth(labels, scene((0, (2, 2, 6, 6))))
    assert (found > 0).sum() == 16
    assert found[1].max() == 0


def test_of_two_overlapping_equal_digits_the_taller_counts():
    labels = np.full((8, 8), 1, np.uint8)
    found = digit_depth(labels, scene((0, (0, 0, 8, 8)), (0, (0, 0, 4, 4))))
    assert found[0, 0] == FOCAL_LENGTH / 8


def test_every_test_scene_has_depths_where_its_digits_are():
    source = open_digit_depths("test")
    assert len(source) == 300
    for i in (0, 17, 299):
        labels, depth = source.maps.label(i), source.depth(i)
        assert depth.shape == source.image(i).shape[:2]
        np.testing.assert_array_equal(depth > 0, (labels > 0) & (labels < 255))
    kept = source.select(np.array([17]))
    np.testing.assert_array_equal(kept.depth(0), source.depth(17))


def test_an_unknown_split_is_named():
    with pytest.raises(UserError, match="found the splits"):
        open_digit_depths("validation")
