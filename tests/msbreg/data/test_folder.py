import shutil

import numpy as np
import pytest

from msbreg.data.folder import (
    UnreadableImage,
    balanced_subset,
    held_out_tail,
    list_images,
    read_image,
    without_unreadable,
)
from msbreg.data.sources import image_split, training_images
from msbreg.run.errors import UserError


def test_class_folders_become_labels_in_sorted_order(make_folder):
    images = list_images(make_folder(train=3) / "train")
    assert images.classes == ("class0", "class1")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.paths[0] == "class0/000.png"
    assert images.read(0).shape == (20, 20, 3)


def test_a_flat_folder_has_no_labels(make_folder):
    images = list_images(make_folder(train=3) / "train" / "class0")
    assert images.labels is None
    assert len(images) == 3


def test_nested_folders_belong_to_their_class(make_folder):
    root = make_folder(train=2) / "train"
    (root / "class0" / "deep").mkdir()
    (root / "class0" / "000.png").rename(root / "class0" / "deep" / "000.png")
    assert list_images(root).labels.tolist() == [0, 0, 1, 1]


def test_pixels_are_rgb(make_folder):
    image = list_images(make_folder(train=1) / "train").read(0)
    # class 0 was written by OpenCV with its first channel, blue, dimmed
    assert image[..., 2].mean() < image[..., 0].mean() / 2


def test_the_fingerprint_changes_with_names_and_sizes(make_folder):
    root = make_folder(train=2) / "train"
    before = list_images(root).fingerprint
    assert before == list_images(root).fingerprint
    with open(root / "class0" / "000.png", "ab") as file:
        file.write(b"x")
    changed = list_images(root).fingerprint
    (root / "class0" / "000.png").rename(root / "class0" / "zzz.png")
    assert len({before, changed, list_images(root).fingerprint}) == 3


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: root.rename(root.parent / "gone"), "does not exist"),
        (lambda root: [f.unlink() for f in root.rglob("*.png")], "holds no image"),
        (lambda root: (root / "a.png").write_bytes(b"x"), "holds both images"),
        (lambda root: (root / "empty").mkdir(), "holds no image"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(make_folder, spoil, words):
    root = make_folder(train=2) / "train"
    spoil(root)
    with pytest.raises(UserError, match=words):
        list_images(root)


def test_a_classes_file_selects_folders(make_folder, tmp_path):
    root = make_folder(classes=3, train=2) / "train"
    names = tmp_path / "names.txt"
    names.write_text("class2\nclass0\n")
    chosen = list_images(root, classes_file=names)
    assert chosen.classes == ("class0", "class2")
    assert len(chosen) == 4
    names.write_text("class2\nnothing\n")
    with pytest.raises(UserError, match="1 are no folder of .*: nothing"):
        list_images(root, classes_file=names)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_named(make_folder, suffix):
    import cv2

    root = make_folder(train=1) / "train" / "class0"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = root / f"cut{suffix}"
    cv2.imwrite(str(path), noise)
    whole = path.read_bytes()
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match=f"cut{suffix}"):
        read_image(path)
    path.write_bytes(whole + b"\0" * 100)  # trailing bytes after the image do no harm
    assert read_image(path).shape == (64, 64, 3)


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"no image", "is not an image")])
def test_a_file_that_is_no_image_is_named(tmp_path, content, words):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=words):
        read_image(path)


def test_unreadable_files_are_left_out_and_named(make_folder):
    root = make_folder(train=3) / "train"
    (root / "class0" / "001.png").write_bytes(b"no image")
    images = without_unreadable(list_images(root))
    assert len(images) == 5
    assert images.skipped == ("class0/001.png",)
    assert images.labels.tolist() == [0, 0, 1, 1, 1]


def test_if_nothing_is_readable_that_is_an_error(make_folder):
    root = make_folder(train=1) / "train"
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 2 files"):
        without_unreadable(list_images(root))


def test_a_balanced_subset_has_the_same_number_of_every_class(make_folder):
    images = list_images(make_folder(classes=3, train=6) / "train")
    some = balanced_subset(images, 9, seed=0)
    assert np.bincount(some.labels).tolist() == [3, 3, 3]
    assert some.paths == balanced_subset(images, 9, seed=0).paths
    assert some.paths != balanced_subset(images, 9, seed=1).paths
    assert some.fingerprint != images.fingerprint


def test_a_subset_larger_than_the_list_is_refused(make_folder):
    images = list_images(make_folder(train=2) / "train")
    with pytest.raises(UserError, match="5 images asked of .*, which holds 4"):
        balanced_subset(images, 5, seed=0)


def test_the_held_out_tail_is_the_end_of_each_class_and_keeps_pairs_together(make_folder):
    images = list_images(make_folder(train=9) / "train")
    rest, tail = held_out_tail(images, 6)
    assert [path for path in tail.paths if path.startswith("class0")] == [
        f"class0/{i:03d}.png" for i in (6, 7, 8)
    ]
    assert set(rest.paths) | set(tail.paths) == set(images.paths)
    assert not set(rest.paths) & set(tail.paths)
    _, most = held_out_tail(images, 1000)
    assert np.bincount(most.labels).tolist() == [5, 5]


@pytest.mark.parametrize("names", [("val", "test"), ("Train", "Val")])
def test_folders_that_look_like_splits_are_not_classes(make_folder, names):
    root = make_folder(**dict.fromkeys(names, 2))
    with pytest.raises(UserError, match="look like splits, not classes"):
        training_images(str(root))


def test_a_split_without_class_folders_is_refused(make_folder):
    root = make_folder(train=2, val=2)
    for file in (root / "val" / "class0").iterdir():
        file.rename(root / "val" / file.name)
    for name in ("class0", "class1"):
        shutil.rmtree(root / "val" / name)
    with pytest.raises(UserError, match="holds images but no class folders"):
        image_split(str(root), "val")


def test_hidden_folders_are_no_classes_and_dangling_links_are_named(make_folder):
    root = make_folder(train=2) / "train"
    (root / ".ipynb_checkpoints").mkdir()
    (root / "class0" / "zzz.png").symlink_to(root / "nowhere.png")
    images = list_images(root)
    assert images.classes == ("class0", "class1")
    with pytest.raises(UnreadableImage, match=r"zzz\.png cannot be read"):
        images.read(2)
