import json

import numpy as np
import pytest

from msbreg.data.classification.imagenet_variants import VARIANTS, objectnet_classes
from msbreg.data.sources import SOURCES, open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import WNIDS
from tests.msbreg.data.classification.variant_trees import VARIANT_TREES, objectnet_tree, wnid_tree


@pytest.mark.parametrize("layout", sorted(VARIANT_TREES))
def test_a_tree_is_recognized_and_read(layout, tmp_path):
    write, split, images, classes = VARIANT_TREES[layout]
    write(tmp_path / "data")
    assert recognized(tmp_path / "data") == layout
    assert split in SOURCES[layout].splits(tmp_path / "data")
    opened = open_source(f"{layout}:{tmp_path / 'data'}", split)
    assert (len(opened), len(opened.classes)) == (images, classes)
    with pytest.raises(UserError, match=f"{layout} has no split 'dev'; expected {split}"):
        open_source(f"{layout}:{tmp_path / 'data'}", "dev")


@pytest.mark.parametrize("layout", sorted(VARIANTS))
def test_another_folder_is_rejected_with_an_example_of_the_layout(layout, make_folder):
    with pytest.raises(UserError, match=f"contains no folder of {layout}, such as"):
        open_source(f"{layout}:{make_folder()}", next(iter(VARIANTS[layout])))


def test_the_folder_of_the_wnids_may_be_the_root(tmp_path):
    wnid_tree(tmp_path, "imagenet-r")
    inside = open_source(f"imagenet-r:{tmp_path / 'imagenet-r'}", "test")
    assert inside.fingerprint == open_source(f"imagenet-r:{tmp_path}", "test").fingerprint
    assert inside.classes == WNIDS


def test_indices_of_v2_are_ordered_as_numbers(tmp_path):
    wnid_tree(tmp_path, "imagenetv2-top-images-format-val", wnids=("10", "2", "0"))
    images = open_source(f"imagenet-v2:{tmp_path}", "top-images")
    assert images.classes == ("0", "2", "10")
    names = [images.entry(i).partition("/")[0] for i in range(len(images))]
    assert [images.classes[label] for label in images.labels] == names


@pytest.mark.parametrize(
    ("layout", "folder", "names"),
    [
        ("imagenet-a", "imagenet-a", ("cat", "dog")),
        ("imagenet-v2", "imagenetv2-top-images-format-val", ("0", "1000")),
    ],
)
def test_class_folders_with_other_names_are_rejected(tmp_path, layout, folder, names):
    wnid_tree(tmp_path, folder, wnids=names)
    split = "test" if layout == "imagenet-a" else "top-images"
    with pytest.raises(UserError, match=r"contains the folder '(cat|1000)'; expected"):
        open_source(f"{layout}:{tmp_path}", split)


def test_corruptions_may_lie_in_the_folders_of_the_archives(tmp_path):
    wnid_tree(tmp_path / "blur" / "defocus_blur", "3")
    assert len(open_source(f"imagenet-c:{tmp_path}", "defocus_blur/3")) == 6
    assert SOURCES["imagenet-c"].splits(tmp_path) == ("defocus_blur/3",)


def test_objectnet_has_the_common_classes_and_no_border(tmp_path):
    objectnet_tree(tmp_path)
    images = open_source(f"objectnet:{tmp_path}", "test")
    assert images.classes == ("alarm_clock", "chair")
    assert images.labels.tolist() == [0, 0, 1, 1]
    pixels = images.image(0)
    assert pixels.shape == (24, 24, 3)
    assert not (pixels == (255, 0, 0)).all(axis=2).any()
    assert np.array_equal(images.subset([0]).image(0), pixels)


def test_objects_map_to_the_indices_of_all_their_classes(tmp_path):
    objectnet_tree(tmp_path)
    found = objectnet_classes(tmp_path / "objectnet-1.0" / "mappings")
    assert found == {"alarm_clock": (1, 3), "chair": (0,)}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("objectnet_to_imagenet_1k.json", {"Chair": "throne"}, "the class 'throne' of 'Chair'"),
        ("objectnet_to_imagenet_1k.json", {}, "none of the folders of"),
        ("folder_to_objectnet_label.json", [], "is not a json object"),
    ],
)
def test_mappings_that_do_not_fit_together_are_rejected(tmp_path, file, content, words):
    objectnet_tree(tmp_path)
    (tmp_path / "objectnet-1.0" / "mappings" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        open_source(f"objectnet:{tmp_path}", "test")
