import hashlib
import pickle

import numpy as np
import pytest

from msbreg.data.classification import imagenet
from msbreg.data.classification.file_lists import MissingImages, WrongLayout
from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import (
    WNIDS,
    imagenet_tree,
    write_devkit,
    write_kaggle_labels,
)


def labels_by_stem(images) -> dict[str, str]:
    """File name without suffix -> wnid."""
    return {
        images.entry(i).rpartition("/")[2].removesuffix(".JPEG"): images.classes[images.label(i)]
        for i in range(len(images))
    }


def test_class_folders_are_read_in_sorted_order_of_wnids(tmp_path):
    labels = imagenet_tree(tmp_path)
    train, val = (open_source(f"imagenet:{tmp_path}", split) for split in ("train", "val"))
    assert train.classes == val.classes == WNIDS
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert labels_by_stem(val) == labels
    assert train.fingerprint == open_source(str(tmp_path), "train").fingerprint
    assert recognized(tmp_path) == "imagenet"


def test_the_class_numbers_of_the_devkit_are_translated_to_sorted_wnids(tmp_path):
    labels = imagenet_tree(tmp_path, flat=True)
    write_devkit(tmp_path, labels, ids={WNIDS[2]: 1, WNIDS[0]: 2, WNIDS[1]: 3})
    val = open_source(f"imagenet:{tmp_path}", "val")
    assert val.classes == WNIDS
    assert labels_by_stem(val) == labels


def test_the_labels_of_kaggle_are_found_above_its_tree(tmp_path):
    labels = imagenet_tree(tmp_path / "ILSVRC/Data/CLS-LOC", flat=True)
    write_kaggle_labels(tmp_path, labels)
    for root in (tmp_path, tmp_path / "ILSVRC", tmp_path / "ILSVRC/Data/CLS-LOC"):
        assert labels_by_stem(open_source(f"imagenet:{root}", "val")) == labels
        assert len(open_source(f"imagenet:{root}", "train")) == 12


@pytest.mark.parametrize("layout", ["imagenet", "imagenet100"])
def test_class_folders_and_both_flat_layouts_have_one_fingerprint_and_order(tmp_path, layout):
    found = []
    for name in ("folders", "devkit", "kaggle"):
        labels = imagenet_tree(tmp_path / name, flat=name != "folders")
        if name == "devkit":
            write_devkit(tmp_path / name, labels, ids={WNIDS[2]: 1, WNIDS[0]: 2, WNIDS[1]: 3})
        if name == "kaggle":
            write_kaggle_labels(tmp_path / name, labels)
        (tmp_path / name / "imagenet100.txt").write_text("\n".join(WNIDS[:2]))
        images = open_source(f"{layout}:{tmp_path / name}", "val")
        order = [images.entry(i).rpartition("/")[2] for i in range(len(images))]
        found.append((images.fingerprint, images.classes, images.labels.tolist(), order))
    assert found[0] == found[1] == found[2]


def test_other_labels_give_another_fingerprint(tmp_path):
    fingerprints = set()
    for name, ids in (("a", (1, 2, 3)), ("b", (2, 1, 3))):
        labels = imagenet_tree(tmp_path / name, flat=True)
        write_devkit(tmp_path / name, labels, ids=dict(zip(WNIDS, (1, 2, 3), strict=True)))
        truth = next((tmp_path / name).rglob("ILSVRC2012_validation_ground_truth.txt"))
        truth.write_text("".join(f"{ids[int(n) - 1]}\n" for n in truth.read_text().split()))
        fingerprints.add(open_source(f"imagenet:{tmp_path / name}", "val").fingerprint)
    assert len(fingerprints) == 2


def test_flat_validation_images_without_labels_are_rejected(tmp_path):
    imagenet_tree(tmp_path, flat=True)
    with pytest.raises(
        UserError, match=r"labels were not found.\nExpected .*LOC_val_solution\.csv"
    ):
        open_source(f"imagenet:{tmp_path}", "val")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2\n4\n1\n2\n3\n", r"ground_truth.txt:3 is '4'; expected an ILSVRC2012_ID, 1 to 3"),
        ("1\n2\n3\n", "has no label for 3 images of .*, such as ILSVRC2012_val_00000004"),
    ],
)
def test_an_invalid_ground_truth_is_rejected(tmp_path, text, words):
    labels = imagenet_tree(tmp_path, flat=True)
    write_devkit(tmp_path, labels, ids=dict(zip(WNIDS, (1, 2, 3), strict=True)))
    next(tmp_path.rglob("*ground_truth.txt")).write_text(text)
    with pytest.raises(UserError, match=words):
        open_source(f"imagenet:{tmp_path}", "val")


def test_a_missing_validation_image_is_an_error_that_keeps_the_others(tmp_path):
    labels = imagenet_tree(tmp_path, flat=True)
    write_kaggle_labels(tmp_path, labels)
    (tmp_path / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(
        MissingImages, match=r"1 of the 6 images .* missing, the first: .*00000002"
    ) as e:
        open_source(f"imagenet:{tmp_path}", "val")
    sent = pickle.loads(pickle.dumps(e.value))
    assert (str(sent), len(sent.present)) == (str(e.value), 5)
    del labels["ILSVRC2012_val_00000002"]
    assert labels_by_stem(e.value.present) == labels


def test_a_folder_of_other_classes_is_another_layout(make_folder):
    root = make_folder(train=2)
    with pytest.raises(WrongLayout, match=f"This looks like the layout folder: use folder:{root}"):
        open_source(f"imagenet:{root}", "train")


def test_an_archive_that_is_not_extracted_is_named(tmp_path):
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"img_train\.tar is an archive: extract it first"):
        open_source(f"imagenet:{tmp_path}", "train")


# ---- Lists of training images


def test_a_list_selects_training_images_in_its_order(tmp_path):
    imagenet_tree(tmp_path)
    names = [f"{wnid}_{i}.JPEG" for i in (13, 3) for wnid in WNIDS[::-1]]
    (tmp_path / "few.txt").write_text("\n".join(names) + "\n")
    images = open_source(f"imagenet:{tmp_path}", "train-few")
    assert [images.entry(i) for i in range(6)] == [f"{name[:9]}/{name}" for name in names]
    assert images.labels.tolist() == [2, 1, 0, 2, 1, 0]
    whole = open_source(f"imagenet:{tmp_path}", "train")
    at = list(whole.paths).index(images.entry(0))
    assert np.array_equal(images.image(0), whole.image(at))
    elsewhere = tmp_path / "lists" / "few.txt"
    elsewhere.parent.mkdir()
    (tmp_path / "few.txt").rename(elsewhere)
    again = open_source(f"imagenet:{tmp_path}", f"train-{elsewhere}")
    assert again.fingerprint == images.fingerprint


def test_a_published_list_must_have_its_published_content(tmp_path, monkeypatch):
    imagenet_tree(tmp_path)
    with pytest.raises(UserError, match=r"needs the list of its images, 1percent\.txt, in"):
        open_source(f"imagenet:{tmp_path}", "train-1pct")
    text = "".join(f"{wnid}_3.JPEG\n" for wnid in WNIDS)
    (tmp_path / "imagenet_subsets").mkdir()
    (tmp_path / "imagenet_subsets" / "1percent.txt").write_text(text)
    for split in ("train-1pct", "train-1percent"):
        with pytest.raises(UserError, match="the published list has 71e82a48ba78"):
            open_source(f"imagenet:{tmp_path}", split)
    published = hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setitem(imagenet.SUBSETS, "1pct", ("1percent.txt", published))
    assert len(open_source(f"imagenet:{tmp_path}", "train-1pct")) == 3


def test_a_list_with_a_missing_repeated_or_strange_name_is_rejected(tmp_path):
    imagenet_tree(tmp_path)
    for names, words in (
        ("n01440764_3.JPEG\nn01440764_999.JPEG\n", "1 of the 2 images in .* are missing"),
        ("n01440764_3.JPEG\nn01440764_3.JPEG\n", r"lists n01440764/n01440764_3\.JPEG twice"),
        ("n01440764/n01440764_3.JPEG\n", "expected one name such as n01440764_10026.JPEG per line"),
        ("\n", "lists no images"),
    ):
        (tmp_path / "own.txt").write_text(names)
        with pytest.raises(UserError, match=words):
            open_source(f"imagenet:{tmp_path}", "train-own")
