import numpy as np
import pytest

from msbreg.data.decoding import ImageIOError
from msbreg.data.folder import list_images
from msbreg.data.images import balanced_subset, held_out_tail, unreadable
from msbreg.run.errors import UserError


def test_unreadable_files_are_skipped_and_listed(make_folder):
    root = make_folder(train=3) / "train"
    (root / "class0" / "001.png").write_bytes(b"no image")
    images = list_images(root)
    images = images.without(unreadable(images))
    assert len(images) == 5
    assert images.skipped == ("class0/001.png",)
    assert images.labels.tolist() == [0, 0, 1, 1, 1]


def test_a_folder_without_readable_images_is_rejected(make_folder):
    root = make_folder(train=1) / "train"
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 2 files"):
        list_images(root).without(unreadable(list_images(root)))


def test_a_balanced_subset_has_equally_many_images_per_class(make_folder):
    images = list_images(make_folder(classes=3, train=6) / "train")
    some = balanced_subset(images, 9, seed=0)
    assert np.bincount(some.labels).tolist() == [3, 3, 3]
    assert some.paths == balanced_subset(images, 9, seed=0).paths
    assert some.paths != balanced_subset(images, 9, seed=1).paths
    assert some.fingerprint != images.fingerprint


def test_a_subset_larger_than_the_list_is_rejected(make_folder):
    images = list_images(make_folder(train=2) / "train")
    with pytest.raises(UserError, match="5 images were requested from .*; expected 1 to 4"):
        balanced_subset(images, 5, seed=0)


def test_the_held_out_tail_is_the_end_of_each_class_without_splitting_pairs(make_folder):
    images = list_images(make_folder(train=9) / "train")
    rest, tail = held_out_tail(images, 6)
    assert [path for path in tail.paths if path.startswith("class0")] == [
        f"class0/{i:03d}.png" for i in (6, 7, 8)
    ]
    assert set(rest.paths) | set(tail.paths) == set(images.paths)
    assert not set(rest.paths) & set(tail.paths)
    _, most = held_out_tail(images, 1000)
    assert np.bincount(most.labels).tolist() == [5, 5]


def test_an_io_error_is_not_an_unreadable_image(make_folder):
    root = make_folder(train=2) / "train"
    (root / "class0" / "zzz.png").symlink_to(root / "nowhere.png")
    with pytest.raises(ImageIOError, match=r"zzz\.png cannot be read"):
        unreadable(list_images(root))
