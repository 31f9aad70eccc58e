"""LVIS's annotations: files by address, classes that are absent or incomplete in an image, errors."""

import json

import pytest

from msbreg.data.catalog import load_scenes
from msbreg.run.errors import UserError
from tests.transfer.keypoints_data import CLASSES, FREQUENCIES, make_keypoints


@pytest.fixture
def root(tmp_path):
    return make_keypoints(tmp_path)


def test_images_are_found_by_the_last_parts_of_their_address(root):
    scenes = load_scenes("lvis_v1_val", root)
    assert [s.file for s in scenes.scenes] == sorted((root / "coco" / "val2017").glob("*.png"))
    assert scenes.classes == CLASSES
    assert scenes.sized_boxes


def test_classes_have_frequencies_and_images_list_absent_and_incomplete_ones(root):
    federation = load_scenes("lvis_v1_val", root).federation
    assert federation is not None
    assert federation.frequencies == FREQUENCIES
    assert federation.absent == {1: {2}, 2: {2}, 3: {2}}
    assert federation.incomplete == {1: {0}, 2: set(), 3: set()}


def test_a_file_of_ones_own_is_read_with_the_folder_of_images(root):
    scenes = load_scenes("lvis:lvis/lvis_v1_val.json:coco", root)
    assert scenes.federation == load_scenes("lvis_v1_val", root).federation


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("images", {"coco_url": "a.png"}, "image 1 of 3: coco_url is 'a.png'"),
        ("images", {"coco_url": "x/../a.png"}, "expected an address"),
        ("images", {"neg_category_ids": [9]}, r"neg_category_ids is \[9\]"),
        ("images", {"not_exhaustive_category_ids": 1}, "not_exhaustive_category_ids is 1"),
        ("categories", {"frequency": "x"}, "'red': frequency is 'x'; expected 'r', 'c' or 'f'"),
    ],
)
def test_malformed_entries_are_errors(root, part, changes, message):
    file = root / "lvis" / "lvis_v1_val.json"
    content = json.loads(file.read_text())
    content[part][0] |= changes
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_scenes("lvis_v1_val", root)


def test_a_missing_file_is_an_error_that_names_the_places(root):
    with pytest.raises(UserError, match=r"expected one of: .*lvis_v0\.5_val\.json"):
        load_scenes("lvis_v0.5_val", root)
