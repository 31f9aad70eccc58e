import re
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from msbreg.data.classification.fine_grained import FINE_GRAINED
from msbreg.data.sources import SOURCES, open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.fine_grained_trees import (
    AIRCRAFT,
    FINE_GRAINED_TREES,
)


@pytest.fixture
def root(request, tmp_path):
    FINE_GRAINED_TREES[request.param][0](tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("layout", "root"), [(n, n) for n in sorted(FINE_GRAINED_TREES)], indirect=["root"]
)
def test_the_splits_are_disjoint_and_have_the_same_classes(layout, root):
    _, split, count, classes = FINE_GRAINED_TREES[layout]
    splits = SOURCES[layout].splits(root)
    opened = {name: open_source(f"{layout}:{root}", name) for name in splits}
    assert (len(opened[split]), len(opened[split].classes)) == (count, classes)
    assert {images.classes for images in opened.values()} == {opened[split].classes}
    entries = [images.name(i) for images in opened.values() for i in range(len(images))]
    assert len(entries) == len(set(entries))
    assert recognized(root) == layout


@pytest.mark.parametrize(
    ("layout", "root"), [(n, n) for n in sorted(FINE_GRAINED_TREES)], indirect=["root"]
)
def test_another_split_and_another_layout_are_rejected_with_the_expected_ones(layout, root):
    with pytest.raises(UserError, match="has no split 'dev'; expected .*test"):
        open_source(f"{layout}:{root}", "dev")
    with pytest.raises(UserError, match=f"looks like the layout {layout}: use {layout}:"):
        open_source(f"{'food101' if layout != 'food101' else 'dtd'}:{root}", "train")


@pytest.mark.parametrize("root", ["aircraft"], indirect=True)
def test_variants_of_aircraft_may_contain_spaces_and_slashes(root):
    images = open_source(f"aircraft:{root}", "trainval")
    assert images.classes == AIRCRAFT
    assert images.labels.tolist() == [0, 1, 2] * 4
    assert images.entry(1) == "0000001.jpg"


@pytest.mark.parametrize("root", ["caltech101"], indirect=True)
def test_caltech_has_thirty_random_training_images_per_class(root):
    train, test = (open_source(f"caltech101:{root}", split) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [30, 30]
    assert np.bincount(test.labels).tolist() == [3, 3]
    again, other = (open_source(f"caltech101:{root}", s) for s in ("train", "train-seed1"))
    assert again.fingerprint == train.fingerprint != other.fingerprint


@pytest.mark.parametrize("root", ["cars"], indirect=True)
def test_cars_have_the_labels_of_the_devkit_or_of_a_mirrors_folders(root, make_folder):
    images = open_source(f"cars:{root}", "test")
    assert images.classes[0] == "AM General Hummer SUV 2000"
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.entry(0) == "00001.jpg"
    mirror = make_folder("mirror", train=2, test=1)
    images = open_source(f"cars:{mirror}", "train")
    assert images.classes == ("class0", "class1")
    assert "the labels of this mirror are the sorted names of its folders" in images.notes[0]


def test_birdsnap_is_read_from_mirrors_with_a_note(make_folder):
    root = make_folder(train=2, test=1)
    images = open_source(f"birdsnap:{root}", "test")
    assert len(images) == 2
    assert "most links of Birdsnap are dead" in images.notes[0]
    assert recognized(root) == "folder"
    with pytest.raises(UserError, match="nor class folders in test/"):
        open_source(f"birdsnap:{root / 'train'}", "test")


@pytest.mark.parametrize("root", ["dtd"], indirect=True)
def test_the_partitions_of_dtd_are_splits(root):
    first, same, second = (open_source(f"dtd:{root}", s) for s in ("test", "test1", "test2"))
    assert first.fingerprint == same.fingerprint != second.fingerprint
    assert first.classes == ("banded", "zigzagged")


@pytest.mark.parametrize("root", ["flowers102"], indirect=True)
def test_the_image_numbers_of_flowers_start_at_1(root):
    images = open_source(f"flowers102:{root}", "train")
    assert images.entry(0) == "image_00001.jpg"
    assert images.labels.tolist() == [0, 1, 0, 1]
    savemat(root / "flowers-102" / "setid.mat", {"trnid": np.array([[0, 3]])})
    with pytest.raises(UserError, match="image numbers from 0 to 3; expected 1 to 12"):
        open_source(f"flowers102:{root}", "train")


@pytest.mark.parametrize("root", ["pets"], indirect=True)
def test_the_classes_of_pets_are_ordered_by_number_not_by_name(root):
    images = open_source(f"pets:{root}", "test")
    assert images.classes == ("Abyssinian", "american_bulldog", "Bengal")
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("root", ["sun397"], indirect=True)
def test_classes_of_sun_may_have_subfolders_and_lists_a_folder_of_their_own(root):
    images = open_source(f"sun397:{root}", "train")
    assert images.classes == ("abbey", "apartment_building/outdoor")
    (root / "Partitions").mkdir()
    for name in ("Training_01.txt", "Testing_01.txt"):
        (root / "SUN397" / name).rename(root / "Partitions" / name)
    assert open_source(f"sun397:{root}", "train").fingerprint == images.fingerprint


@pytest.mark.parametrize(
    ("root", "file", "content", "words"),
    [
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "7 B-2\n", "class 'B-2'"),
        ("dtd", "dtd/labels/test1.txt", "dotted/dotted_1.jpg\n", "class 'dotted'"),
        ("dtd", "dtd/labels/test1.txt", "banded/none.jpg\nzigzagged/x.jpg\n", "2 of the 2 images"),
        ("dtd", "dtd/labels/test1.txt", "banded/none.jpg\n", "have no image: zigzagged"),
        ("food101", "food-101/meta/test.txt", "pizza/1\n", "class 'pizza', which is none of the 2"),
        ("food101", "food-101/meta/test.txt", "", "lists no images"),
        ("pets", "annotations/test.txt", "Bengal_2 3\n", "expected an image, its class and two"),
        ("pets", "annotations/test.txt", "Bengal_2 2 1 1\n", r"has the classes \[2\]"),
        ("pets", "annotations/test.txt", "a_1 1 1 1\nb_1 1 1 1\n", "one class number for each"),
        ("sun397", "SUN397/Testing_01.txt", "/z/zoo/sun.jpg\n", "class 'z/zoo'"),
        ("flowers102", "flowers-102/setid.mat", "text", "is not the data set's MATLAB file"),
        ("cars", "devkit/cars_meta.mat", "text", "expected its variable class_names"),
    ],
    indirect=["root"],
)
def test_an_invalid_list_is_rejected_with_the_reason(request, root, file, content, words):
    (root / file).write_text(content)
    layout = request.node.callspec.params["root"]
    with pytest.raises(UserError, match=words):
        open_source(f"{layout}:{root}", "test")


@pytest.mark.parametrize(
    ("root", "file"),
    [("flowers102", "flowers-102/imagelabels.mat"), ("cars", "cars_test_annos_withlabels.mat")],
    indirect=["root"],
)
def test_a_missing_file_of_labels_is_named(request, root, file):
    (root / file).unlink()
    layout = request.node.callspec.params["root"]
    with pytest.raises(UserError, match=f"{re.escape(file)} cannot be read"):
        open_source(f"{layout}:{root}", "test")


@pytest.mark.parametrize("root", ["food101"], indirect=True)
def test_a_missing_image_is_named(root):
    (root / "food-101/images/waffles/1003.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the 4 images .*waffles/1003\.jpg"):
        open_source(f"food101:{root}", "test")


@pytest.mark.parametrize("root", ["caltech101"], indirect=True)
def test_a_class_of_caltech_with_too_few_images_is_rejected(root):
    folder = root / "101_ObjectCategories" / "ant"
    shutil.copytree(folder, root / "101_ObjectCategories" / "bee")
    for file in sorted((root / "101_ObjectCategories" / "bee").iterdir())[:3]:
        file.unlink()
    with pytest.raises(UserError, match="bee has 30 images; expected more than 30"):
        open_source(f"caltech101:{root}", "train")


def test_the_published_splits_of_each_set_add_up():
    # BYOL, Table 10: training images (with validation), test images, classes. (It counts 101 classes of
    # Caltech-101, but its 3,060 training images are 30 of each of 102.)
    expected = {
        "aircraft": (6_667, 3_333, 100),
        "birdsnap": (47_386, 2_443, 500),
        "caltech101": (3_060, 6_084, 102),
        "cars": (8_144, 8_041, 196),
        "dtd": (3_760, 1_880, 47),
        "flowers102": (2_040, 6_149, 102),
        "food101": (75_750, 25_250, 101),
        "pets": (3_680, 3_669, 37),
        "sun397": (19_850, 19_850, 397),
    }
    for name, one in FINE_GRAINED.items():
        counts = [one.published[split] for split in one.disjoint]
        found = sum(c.images for c in counts[:-1]), counts[-1].images, counts[-1].classes
        assert found == expected[name], name
