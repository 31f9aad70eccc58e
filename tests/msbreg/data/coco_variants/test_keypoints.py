"""Keypoints are read as by Detectron2; malformed ones are reported."""

import dataclasses

import pytest

from msbreg.data.catalog import load_scenes, with_labeled_keypoints
from msbreg.data.coco import coco_scenes
from msbreg.data.scenes import KeypointSet
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import coco_content, write_coco
from tests.transfer.keypoints_data import NAMES, make_keypoints

POINTS = [3, 4, 2, 7.5, 8, 1, 0, 0, 0]


def content(*annotations, names=("nose", "left_eye", "right_eye"), skeleton=((1, 2),)):
    made = coco_content([{"keypoints": POINTS} | change for change in annotations])
    made["categories"][1] |= {"keypoints": list(names), "skeleton": [list(e) for e in skeleton]}
    return made


def read(folder, given):
    return coco_scenes("points", *write_coco(folder, given))


def test_keypoints_are_at_the_centers_of_pixels(tmp_path):
    scenes = read(tmp_path, content({}))
    (instance,) = scenes.scenes[0].instances
    assert instance.keypoints == (3.5, 4.5, 2, 8, 8.5, 1, 0.5, 0.5, 0)
    assert scenes.keypoints == KeypointSet(("nose", "left_eye", "right_eye"), ((0, 1),))


def test_without_keypoints_in_the_categories_annotated_ones_are_not_read(tmp_path):
    given = content({})
    del given["categories"][1]["keypoints"]
    scenes = read(tmp_path, given)
    assert scenes.keypoints is None
    assert scenes.scenes[0].instances[0].keypoints is None


@pytest.mark.parametrize("missing", [{"keypoints": []}, {"keypoints": None}])
def test_an_object_may_have_no_keypoints(tmp_path, missing):
    assert read(tmp_path, content(missing)).scenes[0].instances[0].keypoints is None


def test_left_and_right_are_exchanged_in_a_mirrored_image():
    names = ("nose", "left_eye", "right_eye", "left_only", "upright", "ear_right", "ear_left")
    assert KeypointSet(names).mirror == (0, 2, 1, 3, 4, 6, 5)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (POINTS[:6], "has 6 numbers; expected 9"),
        ([*POINTS[:8], 3], "visibility other than 0, 1 and 2"),
        (["a", *POINTS[1:]], "not a list of numbers"),
        ([1e9, *POINTS[1:]], "not pixels"),
        (5, "not a list of numbers"),
    ],
)
def test_malformed_keypoints_are_errors(tmp_path, points, message):
    with pytest.raises(UserError, match=f"annotation id 1 .*{message}"):
        read(tmp_path, content({"keypoints": points}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": "nose"}, "expected a list of names"),
        ({"keypoints": ["a", "a", "b"]}, "a name twice"),
        ({"skeleton": [[0, 1]]}, "pairs of numbers from 1 to 3"),
    ],
)
def test_malformed_definitions_are_errors(tmp_path, changes, message):
    given = content({})
    given["categories"][1] |= changes
    with pytest.raises(UserError, match=f"category 'dog'.*{message}"):
        read(tmp_path, given)


def test_categories_with_different_keypoints_are_an_error(tmp_path):
    given = content({})
    given["categories"][0]["keypoints"] = ["paw", "tail"]
    with pytest.raises(UserError, match="differ from those of"):
        read(tmp_path, given)


def test_a_named_split_has_the_layout_of_coco(tmp_path):
    make_keypoints(tmp_path)
    scenes = load_scenes("keypoints_coco_2017_val", tmp_path)
    assert (len(scenes.scenes), scenes.classes) == (3, ("person",))
    assert scenes.keypoints is not None
    assert scenes.keypoints.names == NAMES


def test_images_with_few_labeled_keypoints_are_dropped(tmp_path):
    make_keypoints(tmp_path)
    scenes = load_scenes("keypoints_coco_2017_train", tmp_path)
    first, *others = scenes.scenes
    hidden = tuple(v if i % 3 < 2 else 0.0 for i, v in enumerate(first.instances[0].keypoints))
    objects = (dataclasses.replace(first.instances[0], keypoints=hidden),)
    changed = dataclasses.replace(
        scenes, scenes=(dataclasses.replace(first, instances=objects), *others)
    )
    assert with_labeled_keypoints(changed, 0).scenes == changed.scenes
    assert with_labeled_keypoints(changed, 1).scenes == tuple(others)
    with pytest.raises(UserError, match="has 99 labeled keypoints"):
        with_labeled_keypoints(changed, 99)
