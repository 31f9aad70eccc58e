"""A survey reads every label map once and finds what training would stumble over."""

import numpy as np
import pytest
from PIL import Image

from msbreg.data.segmentation.label_maps import survey
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run.errors import UserError
from tests.msbreg.data.segmentation.map_trees import folders_tree, save_map


def opened(root):
    return open_label_maps(f"folders:{root}", "train")


def test_a_survey_counts_the_pixels_of_each_class_and_finds_void_images(tmp_path):
    root = folders_tree(tmp_path / "data", train=3)
    save_map(root / "labels/train/train1.png", np.full(opened(root).label(1).shape, 255, np.uint8))
    source = opened(root)
    found = survey(source)
    labels = np.concatenate([source.label(i).ravel() for i in range(3)])
    assert found.pixels.tolist() == [int((labels == k).sum()) for k in range(3)]
    assert found.void.tolist() == [1]


def replaced(tmp_path, make):
    root = folders_tree(tmp_path / "data", train=2)
    file = root / "labels/train/train1.png"
    with Image.open(file) as image:
        labels = np.array(image)
    make(file, labels)
    with pytest.raises(UserError) as error:
        survey(opened(root))
    return str(error.value)


def test_a_label_above_the_number_of_classes_is_an_error(tmp_path):
    def above(file, labels):
        labels[3, 3] = 7
        save_map(file, labels)

    assert "train1.png has the value 7; expected labels of the 3 classes" in replaced(
        tmp_path, above
    )


def test_a_map_of_another_size_than_its_image_is_an_error(tmp_path):
    message = replaced(tmp_path, lambda file, labels: save_map(file, labels[:-1]))
    assert "expected equal sizes" in message


def test_a_map_of_colors_is_an_error(tmp_path):
    def colors(file, labels):
        Image.fromarray(np.stack([labels] * 3, axis=2)).save(file)

    assert "has mode RGB; expected one label per pixel" in replaced(tmp_path, colors)


def test_a_truncated_map_is_an_error(tmp_path):
    def cut(file, labels):
        file.write_bytes(file.read_bytes()[:-40])

    assert "train1.png cannot be decoded" in replaced(tmp_path, cut)


def test_a_split_without_a_labeled_pixel_is_an_error(tmp_path):
    root = folders_tree(tmp_path / "data", train=2)
    for file in (root / "labels/train").iterdir():
        with Image.open(file) as image:
            save_map(file, np.full_like(np.array(image), 255))
    with pytest.raises(UserError, match="all pixels of the 2 label maps"):
        survey(opened(root))
