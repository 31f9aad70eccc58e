"""Bank and queries are disjoint, balanced, from the training split, and repeatable."""

from pathlib import Path

import numpy as np
import pytest

from msbreg.run.errors import UserError
from tests.transfer.labeled_voc import write_labeled_voc
from transfer.gating.gate_bank import MOST_CLASSES, draw, training_split


def drawn(labels, *, bank=20, queries=10, seed=0):
    images = len(labels)
    return draw(labels, images, bank=bank, queries=queries, generator=np.random.default_rng(seed))


def test_bank_and_queries_are_disjoint_and_have_equally_many_of_each_class():
    labels = np.repeat([0, 1, 2], [40, 50, 60])
    found = drawn(labels)
    assert not set(found.bank) & set(found.queries)
    assert np.bincount(labels[found.bank]).tolist() == [7, 7, 7]
    assert np.bincount(labels[found.queries]).tolist() == [3, 3, 3]


def test_the_queries_are_the_last_drawn_images_of_their_class():
    labels = np.repeat([0, 1], 100)
    found = drawn(labels)
    for label in (0, 1):
        bank, queries = (part[labels[part] == label] for part in (found.bank, found.queries))
        assert bank.max() < queries.min()


def test_the_generator_decides_which_images_are_drawn():
    labels = np.repeat([0, 1], 100)
    assert drawn(labels).bank.tolist() == drawn(labels).bank.tolist()
    assert drawn(labels).bank.tolist() != drawn(labels, seed=1).bank.tolist()


def test_a_data_set_of_many_classes_gives_some_classes_with_enough_images():
    labels = np.repeat(np.arange(1000), 13)
    found = drawn(labels, bank=400, queries=200)
    assert len(np.unique(labels[found.bank])) == MOST_CLASSES
    assert np.bincount(labels[found.bank])[np.unique(labels[found.bank])].tolist() == [8] * 50


def test_classes_with_too_few_images_are_not_drawn():
    labels = np.array([0] * 30 + [1] * 3 + [2] * 30)
    assert set(labels[drawn(labels).bank]) == {0, 2}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.zeros(30, int), "only 1 classes have 4 images or more"),
        (np.arange(30), "only 0 classes have 4 images or more"),
        (-np.ones((30, 3), int), "only 0 images have a label"),
    ],
)
def test_labels_that_cannot_be_used_give_a_bank_and_the_reason(labels, reason):
    found = drawn(labels)
    assert reason in found.reason
    assert (len(found.bank), len(found.queries)) == (20, 0)


def test_images_without_labels_give_a_bank():
    found = draw(None, 30, bank=20, queries=10, generator=np.random.default_rng(0))
    assert (len(set(found.bank)), len(found.queries)) == (20, 0)


def test_images_with_several_labels_are_drawn_if_they_have_one():
    labels = -np.ones((40, 3), int)
    labels[::2, 1] = 1
    labels[1, 2] = 0  # only difficult objects
    found = drawn(labels, bank=12, queries=6)
    assert (len(found.bank), len(found.queries)) == (12, 6)
    assert (labels[np.concatenate([found.bank, found.queries]), 1] == 1).all()


def test_the_training_split_of_a_layout_is_found(tmp_path, make_folder):
    voc = write_labeled_voc(tmp_path / "voc")
    folder = make_folder("folder", train=2, val=2)
    assert training_split("digits", None) == ("folder", "train")
    assert training_split(str(folder), None) == ("folder", "train")
    assert training_split(f"voc:{voc}", None) == ("voc", "trainval")
    assert training_split(str(voc), None) == ("voc", "trainval")  # recognized
    assert training_split(f"flat:{folder}", None) == ("flat", "train")
    assert training_split(f"flat:{folder / 'train'}", None) == ("flat", "")


def test_data_without_a_training_split_are_refused(make_folder):
    folder: Path = make_folder("folder", val=2)
    with pytest.raises(UserError, match="has no training split, only val"):
        training_split(str(folder), None)


@pytest.mark.parametrize("split", ["val", "test", "validation"])
def test_a_split_for_testing_is_refused(split):
    with pytest.raises(UserError, match="the gate looks at no test images"):
        training_split("digits", split)
