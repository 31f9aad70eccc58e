"""Data sets by name, folder or LAYOUT:FOLDER, and the ImageSource interface of each layout."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from msbreg.data.classification.imagenet100 import CMC_LIST
from msbreg.data.folder import ImageList
from msbreg.data.sources import (
    SOURCES,
    as_source,
    check_source,
    data_name,
    open_source,
    published_images,
    training_images,
)
from msbreg.data.voc import VOC_CLASSES
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.fine_grained_trees import FINE_GRAINED_TREES
from tests.msbreg.data.classification.published_trees import TREES, imagenet_tree, stl10_tree
from tests.msbreg.data.classification.variant_trees import VARIANT_TREES


@pytest.fixture
def voc(make_folder, tmp_path):
    """Two images in the layout of VOC: one with a cat, one with a difficult cat and a dog."""
    images = make_folder("raw", classes=1, train=2) / "train" / "class0"
    root = tmp_path / "VOCdevkit" / "VOC2007"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    images.rename(root / "JPEGImages")
    for name in ("000", "001"):
        (root / "JPEGImages" / f"{name}.png").rename(root / "JPEGImages" / f"{name}.jpg")
    for label, values in {"cat": (1, 0), "dog": (-1, 1)}.items():
        text = "".join(f"{i:03d} {value}\n" for i, value in enumerate(values))
        (root / "ImageSets" / "Main" / f"{label}_test.txt").write_text(text)
    return root.parent


@pytest.fixture
def tree(request, make_folder, voc, tmp_path):
    """(root, split, number of images, number of classes) of a small data set in the requested layout."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow, the extra hub, is not installed")
    if request.param in TREES:
        TREES[request.param](tmp_path / "published")
        split = {"stl10": "test", "parquet": "validation"}.get(request.param, "val")
        count = {"stl10": (10, 10), "parquet": (4, 2)}.get(request.param, (6, 3))
        return tmp_path / "published", split, *count
    if request.param in FINE_GRAINED_TREES | VARIANT_TREES:
        write, *expected = (FINE_GRAINED_TREES | VARIANT_TREES)[request.param]
        write(tmp_path / "published")
        return tmp_path / "published", *expected
    if request.param == "imagenet100":
        classes = tuple(sorted(CMC_LIST.read_text().split()))
        imagenet_tree(tmp_path / "published", wnids=classes, train=0, val=1)
        return tmp_path / "published", "val", 100, 100
    if request.param == "voc":
        return voc, "test", 2, 2
    root = make_folder(train=2, test=1)
    if request.param == "corrupted":
        return root, "contrast/3", 2, 2
    folders = ("folder", "birdsnap")
    return (root, "test", 2, 2) if request.param in folders else (root, "test/class0", 1, 0)


@pytest.mark.parametrize(
    ("layout", "tree"), [(name, name) for name in sorted(SOURCES)], indirect=["tree"]
)
def test_every_layout_implements_image_source(layout, tree):
    root, split, count, classes = tree
    source = open_source(f"{layout}:{root}", split)
    assert (len(source), len(source.classes)) == (count, classes)
    image = source.image(count - 1)
    assert (image.shape[2], image.dtype) == (3, np.uint8)
    label = source.label(count - 1)
    assert (label is None) == (classes == 0)
    assert len({source.entry(i) for i in range(count)}) == count
    again = SOURCES[layout](root, split)
    assert again.fingerprint == source.fingerprint
    key = source.cache_key()
    assert again.cache_key() == key
    some = source.subset([count - 1])
    assert np.array_equal(some.image(0), image)
    assert some.fingerprint != source.fingerprint or count == 1
    assert str(some.label(0)) == str(label)
    file = Path(source.name(0).partition(":")[0])
    os.utime(file, ns=(1, 1))
    assert SOURCES[layout](root, split).fingerprint == source.fingerprint
    assert SOURCES[layout](root, split).cache_key() != key


@pytest.mark.parametrize(
    ("layout", "tree"),
    [(n, n) for n in sorted(SOURCES) if n not in ("stl10", "parquet", "cifar10", "cifar100")],
    indirect=["tree"],
)
def test_a_changed_file_changes_the_fingerprint(layout, tree):
    root, split, *_ = tree
    source = SOURCES[layout](root, split)
    with open(source.name(0), "ab") as file:
        file.write(b"x")
    assert SOURCES[layout](root, split).fingerprint != source.fingerprint


def test_copies_have_the_same_fingerprint_but_different_cache_keys(make_folder):
    first, second = (open_source(str(make_folder(name)), "val") for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint
    assert first.cache_key() != second.cache_key()


def test_a_layout_can_be_given_with_the_folder(voc):
    source = open_source(f"voc:{voc}", "test")
    assert source.labels.tolist() == [[1, -1], [0, 1]]
    assert data_name(f"voc:{voc}") == "VOCdevkit"


def test_a_folder_or_a_list_of_files_becomes_a_source(make_folder):
    folder = make_folder(train=2) / "train"
    listed = as_source(folder)
    assert len(listed) == 4
    files = [listed.name(3), listed.name(0)]
    chosen = as_source(files)
    assert [chosen.name(i) for i in range(2)] == files
    assert np.array_equal(chosen.image(0), listed.image(3))
    assert as_source(listed) is listed
    with pytest.raises(UserError, match="list of images is empty"):
        as_source([])


def test_a_folder_in_the_layout_of_coco_suggests_detection(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(UserError, match="coco:JSON:IMAGES"):
        open_source(str(tmp_path), "train")


def test_parquet_files_without_pyarrow_name_the_extra_to_install(tmp_path, monkeypatch):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"need pyarrow, .*: pip install -e '\.\[hub\]'"):
        open_source(f"parquet:{tmp_path}", "train")


def test_pre_training_takes_a_layout_by_name(make_folder):
    root = make_folder(train=3)
    assert len(training_images(f"folder:{root}")) == len(training_images(str(root))) == 6
    with pytest.raises(UserError, match="--classes-file selects class folders"):
        training_images(f"folder:{root}", classes_file=root / "classes.txt")


def test_a_misspelt_layout_suggests_the_known_one(tmp_path):
    with pytest.raises(
        UserError, match=r"has the unknown layout 'imgnet'; did you mean imagenet\?\nExpected"
    ):
        check_source(f"imgnet:{tmp_path}")


def test_a_layout_that_resembles_no_other_is_answered_with_all(tmp_path):
    with pytest.raises(UserError, match=r"layout 'qqq'\.\n.*LAYOUT:FOLDER with one of: stl10, "):
        check_source(f"qqq:{tmp_path}")


@pytest.mark.parametrize("layout", ["stl10", "cifar10", "parquet"])
def test_a_layout_without_the_default_split_suggests_its_own(layout, tmp_path):
    if layout == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow, the extra hub, is not installed")
    write = TREES[layout] if layout in TREES else FINE_GRAINED_TREES[layout][0]
    write(tmp_path)
    other = "validation" if layout == "parquet" else "test"
    with pytest.raises(UserError, match=f"\\.\nUse another split with --val-split {other}$"):
        open_source(f"{layout}:{tmp_path}", "val")


def test_pre_training_takes_any_split(tmp_path, make_folder):
    stl10_tree(tmp_path / "stl10")
    images = training_images(f"stl10:{tmp_path / 'stl10'}", "train+unlabeled")
    train = open_source(f"stl10:{tmp_path / 'stl10'}", "train")
    assert images.labels is None
    assert len(images) > len(train)
    root = make_folder(train=3, extra=2)
    assert len(training_images(str(root), "extra")) == 4
    with pytest.raises(UserError, match="no folder 'other'"):
        training_images(str(root), "other")


def test_the_published_counts_are_those_of_the_named_layout(tmp_path):
    stl10_tree(tmp_path)
    images = open_source(f"stl10:{tmp_path}", "train")
    assert published_images(f"stl10:{tmp_path}", "train", images) == 5_000
    assert published_images(str(tmp_path), "train", images) is None


@pytest.mark.parametrize(
    ("folder", "classes", "count"),
    [
        ("VOC2007", VOC_CLASSES, 5_011),
        ("VOC2012", VOC_CLASSES, None),
        ("VOC2007", ("blue", "red"), None),
    ],
)
def test_the_published_counts_of_voc_are_those_of_2007(tmp_path, folder, classes, count):
    image = tmp_path / folder / "JPEGImages" / "1.jpg"
    image.parent.mkdir(parents=True)
    image.touch()
    images = ImageList(
        root=image.parent, paths=("1.jpg",), labels=None, classes=classes, fingerprint=""
    )
    found = published_images(str(tmp_path), "trainval", images, layout="voc")
    assert found == count
