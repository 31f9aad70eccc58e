"""Data sets by name, folder or LAYOUT:FOLDER, and the ImageSource interface of each layout."""

import numpy as np
import pytest

from msbreg.data.sources import SOURCES, as_source, data_name, open_source, training_images
from msbreg.run.errors import UserError


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


@pytest.mark.parametrize("layout", sorted(SOURCES))
def test_every_layout_implements_image_source(layout, make_folder, voc):
    root = voc if layout == "voc" else make_folder(train=2, test=1)
    split = "test/class0" if layout == "flat" else "test"
    source = SOURCES[layout](root, split)
    assert len(source) == {"folder": 2, "flat": 1, "voc": 2}[layout]
    image = source.image(0)
    assert (image.shape, image.dtype) == ((20, 20, 3), np.uint8)
    label = source.label(len(source) - 1)
    assert {"folder": 1, "flat": None, "voc": [0, 1]}[layout] == (
        label.tolist() if label is not None else None
    )
    assert (
        source.classes
        == {"folder": ("class0", "class1"), "flat": (), "voc": ("cat", "dog")}[layout]
    )
    assert source.fingerprint == SOURCES[layout](root, split).fingerprint
    before = source.cache_key()
    assert before == SOURCES[layout](root, split).cache_key()
    with open(source.name(0), "ab") as file:
        file.write(b"x")
    changed = SOURCES[layout](root, split)
    assert changed.fingerprint != source.fingerprint
    assert changed.cache_key() != before


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


def test_pre_training_takes_a_layout_by_name(make_folder):
    root = make_folder(train=3)
    assert len(training_images(f"folder:{root}")) == len(training_images(str(root))) == 6
    with pytest.raises(UserError, match="--classes-file selects class folders"):
        training_images(f"folder:{root}", classes_file=root / "classes.txt")
