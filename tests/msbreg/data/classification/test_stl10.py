import pickle

import numpy as np
import pytest

from msbreg.data.decoding import UnreadableImage
from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import stl10_tree


def pixels(images) -> np.ndarray:
    return np.stack([images.image(i) for i in range(len(images))])


@pytest.fixture
def stl10(tmp_path):
    """(root, images of train, test and unlabeled)."""
    return tmp_path, stl10_tree(tmp_path)


def test_every_pixel_equals_the_image_that_was_written(stl10):
    root, written = stl10
    for split, rows in (
        ("train", slice(0, 20)),
        ("test", slice(20, 30)),
        ("unlabeled", slice(30, 35)),
        ("train+unlabeled", [*range(20), *range(30, 35)]),
    ):
        assert np.array_equal(pixels(open_source(f"stl10:{root}", split)), written[rows]), split


def test_pixels_and_labels_equal_those_of_torchvision(stl10):
    from torchvision.datasets import STL10

    root, _ = stl10

    class Unchecked(STL10):
        def _check_integrity(self) -> bool:  # the published files have other md5 sums
            return True

    theirs = Unchecked(root, split="test")
    ours = open_source(f"stl10:{root / 'stl10_binary'}", "test")
    assert np.array_equal(pixels(ours), theirs.data.transpose(0, 2, 3, 1))
    assert np.array_equal(ours.labels, theirs.labels)


def test_labels_count_from_zero_and_unlabeled_images_have_none(stl10):
    root, _ = stl10
    train = open_source(f"stl10:{root}", "train")
    assert train.labels.tolist() == [*range(10)] * 2
    assert train.classes[0] == "airplane"
    assert train.classes[9] == "truck"
    for split in ("unlabeled", "train+unlabeled"):
        images = open_source(f"stl10:{root}", split)
        assert (images.labels, images.classes, images.label(0)) == (None, (), None)


def test_a_fold_has_the_images_on_its_line(stl10):
    root, written = stl10
    fold = open_source(f"stl10:{root}", "train-fold3")
    rows = [*range(3, 13)]
    assert np.array_equal(pixels(fold), written[rows])
    assert fold.labels.tolist() == [row % 10 for row in rows]
    assert fold.entry(1) == "train_X.bin:4"


def test_entries_name_the_row_of_the_file(stl10):
    root, _ = stl10
    both = open_source(f"stl10:{root}", "train+unlabeled")
    assert [both.entry(i) for i in (0, 19, 20, 24)] == [
        "train_X.bin:0",
        "train_X.bin:19",
        "unlabeled_X.bin:0",
        "unlabeled_X.bin:4",
    ]
    some = both.subset([24, 0])
    assert [some.entry(0), some.entry(1)] == ["unlabeled_X.bin:4", "train_X.bin:0"]


def test_a_worker_process_reads_the_same_images(stl10):
    root, written = stl10
    copy = pickle.loads(pickle.dumps(open_source(f"stl10:{root}", "test")))
    assert np.array_equal(pixels(copy), written[20:30])


def test_other_pixels_of_the_same_size_change_the_fingerprint(stl10):
    root, _ = stl10
    before = open_source(f"stl10:{root}", "test").fingerprint
    with open(root / "stl10_binary" / "test_X.bin", "r+b") as file:
        file.seek(27648 * 9)
        file.write(b"\x07" * 27648)
    assert open_source(f"stl10:{root}", "test").fingerprint != before


@pytest.mark.parametrize(
    ("name", "content", "split", "words"),
    [
        ("train_X.bin", bytes(27648 * 20 - 1), "train", "expected a multiple of 27648"),
        ("train_y.bin", bytes(20), "train", "label 0 is 0; expected 1 to 10 in the file"),
        ("train_y.bin", b"\x01" * 19 + b"\x0b", "train", "label 19 is 11"),
        ("train_y.bin", b"\x01" * 20, "train", "9 of the 10 classes have no image: bird, car"),
        ("train_y.bin", b"\x01", "train", "has 1 labels, but there are 20 images"),
        (
            "fold_indices.txt",
            b"0 1\n0 20\n",
            "train-fold1",
            "indices from 0 to 20; expected distinct",
        ),
        ("fold_indices.txt", b"0 1\n", "train-fold1", "has no fold 1"),
        ("class_names.txt", b"cat\n", "train", "has 1 names; expected 10"),
    ],
)
def test_a_damaged_file_is_rejected_with_the_reason(stl10, name, content, split, words):
    root, _ = stl10
    (root / "stl10_binary" / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        open_source(f"stl10:{root}", split)


def test_a_file_that_is_cut_after_opening_is_an_unreadable_image(stl10):
    root, _ = stl10
    images = open_source(f"stl10:{root}", "test")
    (root / "stl10_binary" / "test_X.bin").write_bytes(bytes(27648 * 9 + 5))
    with pytest.raises(UnreadableImage, match="test_X.bin:9 is truncated"):
        images.image(9)


@pytest.mark.parametrize("split", ["val", "train-fold", "train-fold10", "test-fold1"])
def test_an_unknown_split_is_rejected_with_those_that_exist(stl10, split):
    with pytest.raises(UserError, match=f"no split '{split}'; expected train, test, unlabeled"):
        open_source(f"stl10:{stl10[0]}", split)


def test_the_layout_is_recognized(stl10):
    root, _ = stl10
    assert recognized(root) == recognized(root / "stl10_binary") == "stl10"
    with pytest.raises(UserError, match=f"looks like the layout stl10: use stl10:{root}"):
        open_source(f"places205:{root}", "train")
