"""Keypoints are resized and mirrored like Detectron2's: compared with it if it is installed."""

import dataclasses

import numpy as np
import pytest
import torch

from msbreg.data.catalog import load_scenes
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import noise
from tests.transfer.detectors import data_by_detectron2 as by_detectron2
from tests.transfer.keypoints_data import make_keypoints
from transfer.detectors.mapper import MapperSettings, training_sample
from transfer.detectors.samples import training_batches

SETTINGS = MapperSettings(
    train_sizes=(48, 60), train_longest=90, keypoints=True, mirror=(0, 2, 1, 4, 3)
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return load_scenes("keypoints_coco_2017_train", make_keypoints(tmp_path_factory.mktemp("k")))


def one_scene(scenes, folder, *points):
    """A scene of 40 x 30 pixels whose object has these keypoints."""
    noise(30, 40).save(folder / "a.png")
    first = scenes.scenes[0]
    flat = tuple(float(value) for point in points for value in point)
    instance = dataclasses.replace(first.instances[0], keypoints=flat, box=(2.0, 2.0, 20.0, 20.0))
    return dataclasses.replace(
        first, file=folder / "a.png", height=30, width=40, instances=(instance,)
    )


POINTS = ((4, 5, 2), (10, 5, 1), (20, 5, 2), (39, 30, 2), (41, 5, 2))


def keypoints(scene, flip, size=60):
    settings = dataclasses.replace(SETTINGS, train_sizes=(size,), flip=flip)
    for seed in range(8):  # the first seed that flips; none of them flips without a direction
        random = np.random.RandomState(seed)
        sample = training_sample(scene, settings, random, sized_boxes=True)
        plain = dataclasses.replace(settings, flip="none")
        other = training_sample(scene, plain, np.random.RandomState(seed), sized_boxes=True)
        if flip == "none" or not torch.equal(sample.image, other.image):
            return sample.keypoints[0].tolist()
    raise AssertionError("no seed flips")


def test_keypoints_are_scaled_and_hidden_outside_the_image(scenes, tmp_path):
    scene = one_scene(scenes, tmp_path, *POINTS)
    expected = [[8, 10, 2], [20, 10, 1], [40, 10, 2], [78, 60, 2], [0, 0, 0]]
    assert keypoints(scene, "none") == expected


def test_a_horizontal_flip_exchanges_left_and_right(scenes, tmp_path):
    scene = one_scene(scenes, tmp_path, *POINTS)
    expected = [[72, 10, 2], [40, 10, 2], [60, 10, 1], [0, 0, 0], [2, 60, 2]]
    assert keypoints(scene, "horizontal") == expected


def test_a_vertical_flip_does_not(scenes, tmp_path):
    scene = one_scene(scenes, tmp_path, *POINTS)
    expected = [[8, 50, 2], [20, 50, 1], [40, 50, 2], [78, 0, 2], [0, 0, 0]]
    assert keypoints(scene, "vertical") == expected


def test_keypoints_of_dropped_objects_are_dropped(scenes, tmp_path):
    scene = one_scene(scenes, tmp_path, *POINTS)
    crowd = dataclasses.replace(scene.instances[0], crowd=True, keypoints=None)
    thin = dataclasses.replace(scene.instances[0], box=(5.0, 5.0, 5.0, 9.0))
    scene = dataclasses.replace(scene, instances=(crowd, thin, scene.instances[0]))
    sample = training_sample(scene, SETTINGS, np.random.RandomState(0), sized_boxes=True)
    assert sample.keypoints is not None
    assert sample.keypoints.shape == (1, 5, 3)
    assert sample.keypoints.dtype == np.float32


def test_an_object_without_keypoints_is_an_error(scenes):
    first = scenes.scenes[0]
    bare = dataclasses.replace(first.instances[0], keypoints=None)
    changed = dataclasses.replace(
        scenes, scenes=(dataclasses.replace(first, instances=(bare,)), *scenes.scenes[1:])
    )
    options = {"batch": 2, "seed": 0, "first": 0, "rank": 0, "world": 1, "workers": 0}
    with pytest.raises(UserError, match="image 1 .* has an object without keypoints"):
        training_batches(changed, SETTINGS, **options)


def test_batches_are_mirrored_as_the_names_of_the_data_say(scenes):
    settings = dataclasses.replace(SETTINGS, mirror=())
    options = {"batch": 2, "seed": 0, "first": 0, "rank": 0, "world": 1, "workers": 0}
    batches = training_batches(scenes, settings, **options)
    other = training_batches(scenes, SETTINGS, **options)
    for one, right in zip(next(batches), next(other), strict=True):
        np.testing.assert_array_equal(one.keypoints, right.keypoints)


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_samples_equal_detectron2s(scenes, flip):
    settings = dataclasses.replace(SETTINGS, flip=flip)
    for seed, scene in enumerate(scenes.scenes):
        theirs = by_detectron2.mapped(scene, settings, seed, sized_boxes=True)["instances"]
        ours = training_sample(scene, settings, np.random.RandomState(seed), sized_boxes=True)
        assert torch.equal(ours.boxes, theirs.gt_boxes.tensor)
        assert torch.equal(torch.from_numpy(ours.keypoints), theirs.gt_keypoints.tensor)
