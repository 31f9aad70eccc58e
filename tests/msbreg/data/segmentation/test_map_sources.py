"""Label maps in every layout: values become labels, and mistakes in the data are clear errors."""

import shutil

import cv2
import numpy as np
import pytest

from msbreg.data.segmentation.map_sources import MAP_SOURCES, open_label_maps, recognized_maps
from msbreg.run.errors import UserError
from tests.msbreg.data.segmentation.map_trees import (
    ade20k_tree,
    cityscapes_tree,
    coco_tree,
    folders_tree,
    save_map,
    scene,
    voc_tree,
)

TREES = {
    "voc": (voc_tree, "val"),
    "cityscapes": (cityscapes_tree, "val"),
    "ade20k": (ade20k_tree, "val"),
    "folders": (folders_tree, "val"),
    "coco": (coco_tree, "val"),
}


@pytest.mark.parametrize("layout", TREES)
def test_a_tree_is_recognized_and_its_images_have_maps_of_their_size(tmp_path, layout):
    make, split = TREES[layout]
    root = make(tmp_path / "data")
    assert recognized_maps(root) == layout
    source = open_label_maps(f"{layout}:{root}", split)
    for i in range(len(source)):
        labels = source.label(i)
        assert labels.shape == source.image(i).shape[:2] == source.sizes(i)[1]
        assert set(np.unique(labels)) <= {*range(len(source.classes)), 255}
    assert open_label_maps(str(root), split).fingerprint == source.fingerprint
    assert source.subset([0]).label(0).tolist() == source.label(0).tolist()
    assert set(MAP_SOURCES[layout].splits(root)) >= {source.root.name} or layout in (
        "voc",
        "folders",
    )


def test_trainaug_takes_missing_maps_of_voc_from_the_augmented_folder(tmp_path):
    source = open_label_maps(str(voc_tree(tmp_path)), "trainaug")
    assert [source.maps[i].split("/")[0] for i in range(3)] == [
        "SegmentationClass",
        "SegmentationClass",
        "SegmentationClassAug",
    ]
    assert source.classes[:3] == ("background", "aeroplane", "bicycle")


def test_ids_of_cityscapes_become_train_ids(tmp_path):
    source = open_label_maps(str(cityscapes_tree(tmp_path)), "train")
    _, drawn = scene(np.random.default_rng(0))
    assert source.label(0).tolist() == np.array([0, 13, 255])[drawn].tolist()
    assert source.classes[13] == "car"


def test_generated_train_ids_of_cityscapes_are_read_as_they_are(tmp_path):
    root = cityscapes_tree(tmp_path)
    for file in root.glob("gtFine/*/*/*_labelIds.png"):
        labels = np.full(cv2.imread(str(file)).shape[:2], 18, np.uint8)
        cv2.imwrite(str(file).replace("labelIds", "labelTrainIds"), labels)
    assert np.unique(open_label_maps(str(root), "train").label(0)).tolist() == [18]


def test_zero_is_void_in_ade20k(tmp_path):
    source = open_label_maps(str(ade20k_tree(tmp_path)), "training")
    _, drawn = scene(np.random.default_rng(0))
    assert source.label(0).tolist() == np.array([255, 0, 1])[drawn].tolist()


def test_small_instances_are_drawn_on_large_ones_and_crowds_are_void_below(tmp_path):
    source = open_label_maps(str(coco_tree(tmp_path)), "train")
    labels = source.label(0)
    assert source.classes == ("background", "large", "small")
    assert [int(labels[y, x]) for y, x in ((0, 0), (5, 5), (12, 12), (5, 35))] == [0, 1, 2, 255]


def test_the_embedded_digits_have_their_classes():
    source = open_label_maps("digits", "test")
    assert (len(source), source.classes[:2]) == (300, ("background", "zero"))


def broken(tmp_path, layout, break_it):
    root = TREES[layout][0](tmp_path / "data")
    break_it(root)
    with pytest.raises(UserError) as error:
        open_label_maps(str(root), "train")
    return str(error.value)


def test_unequal_file_lists_name_the_first_files(tmp_path):
    def rename(root):
        (root / "labels/train/train0.png").rename(root / "labels/train/x.png")

    message = broken(tmp_path, "folders", rename)
    assert "1 images without a label map: train0" in message
    assert "1 label maps without an image: x" in message


def test_a_list_with_an_unknown_image_is_an_error(tmp_path):
    message = broken(
        tmp_path, "folders", lambda root: (root / "train.txt").write_text("train0\nno\n")
    )
    assert "lists 1 names without an image and a label map: no" in message
    lists = "VOC2012/ImageSets/Segmentation/train.txt"
    shutil.rmtree(tmp_path / "data")
    message = broken(tmp_path, "voc", lambda root: (root / lists).write_text("a\nno\n"))
    assert "JPEGImages/no.jpg is missing" in message


def test_an_unknown_split_lists_those_that_are_there(tmp_path):
    root = voc_tree(tmp_path)
    with pytest.raises(UserError, match="found the splits: train, trainaug, val"):
        open_label_maps(str(root), "test")


def test_a_folder_without_a_known_layout_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no known layout of label maps"):
        open_label_maps(str(tmp_path), "train")
    with pytest.raises(UserError, match=f"use folders:{folders_tree(tmp_path / 'f')}"):
        open_label_maps(f"voc:{tmp_path / 'f'}", "train")


def test_a_name_twice_in_different_formats_is_an_error(tmp_path):
    def twice(root):
        save_map(root / "labels/train/train0.bmp", np.zeros((4, 4), np.uint8))

    assert "contains both train0.bmp and train0.png" in broken(tmp_path, "folders", twice)
