import hashlib

import pytest

from msbreg.data.classification.imagenet100 import CMC_LIST, open_imagenet100
from msbreg.data.folder import read_classes
from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import (
    WNIDS,
    imagenet_tree,
    write_image,
    write_kaggle_labels,
)

CMC = tuple(read_classes(CMC_LIST))


@pytest.fixture
def root(tmp_path):
    """One training and one validation image for each class of the list, and one for another class."""
    imagenet_tree(tmp_path, wnids=tuple(sorted({*CMC, "n01440764"})), train=1, val=1)
    return tmp_path


def test_the_list_is_that_of_cmc():
    assert hashlib.sha256(CMC_LIST.read_bytes()).hexdigest().startswith("79f3f1552ccc478ce24bd934")
    assert len(CMC) == 100


def test_only_the_classes_of_the_list_are_read(root):
    train, val = (open_source(f"imagenet100:{root}", split) for split in ("train", "val"))
    assert train.classes == val.classes == CMC
    assert train.labels.tolist() == val.labels[val.labels.argsort()].tolist() == list(range(100))
    assert len(open_source(f"imagenet:{root}", "train")) == 101
    assert train.notes == ()
    assert recognized(root) == "imagenet"


def test_flat_validation_images_and_lists_are_filtered(tmp_path):
    classes = tuple(sorted({*CMC, "n01440764"}))
    labels = imagenet_tree(tmp_path, wnids=classes, train=1, val=1, flat=True)
    write_kaggle_labels(tmp_path, labels)
    val = open_source(f"imagenet100:{tmp_path}", "val")
    found = {val.entry(i)[:-5]: val.classes[val.label(i)] for i in range(len(val))}
    assert found == {stem: wnid for stem, wnid in labels.items() if wnid in CMC}
    (tmp_path / "imagenet100.txt").write_text("n01440764\nn99999999\n")
    with pytest.raises(UserError, match="val does not contain 1 of the 2 classes listed in"):
        open_source(f"imagenet100:{tmp_path}", "val")
    (tmp_path / "imagenet100.txt").unlink()
    (tmp_path / "one.txt").write_text("".join(f"{wnid}_3.JPEG\n" for wnid in classes))
    assert len(open_source(f"imagenet100:{tmp_path}", "train-one")) == 100


def test_a_list_in_the_folder_replaces_that_of_cmc_with_a_note(tmp_path):
    imagenet_tree(tmp_path)
    (tmp_path / "imagenet100.txt").write_text("n02123045\nn01440764\n")
    images = open_source(f"imagenet100:{tmp_path}", "train")
    assert images.classes == ("n01440764", "n02123045")
    assert "are not those of CMC's ImageNet-100" in images.notes[0]
    other = tmp_path / "other.txt"
    other.write_text("n01443537\n")
    assert open_imagenet100(tmp_path, "val", classes_file=other).classes == ("n01443537",)


def test_missing_classes_and_another_set_of_100_are_errors(tmp_path):
    imagenet_tree(tmp_path / "few")
    with pytest.raises(
        UserError,
        match="few/train does not contain 9[89] of the 100 classes listed in .*: n.*, ...",
    ):
        open_source(f"imagenet100:{tmp_path / 'few'}", "train")
    for wnid in (*CMC[1:], WNIDS[1]):
        (tmp_path / "other" / "train" / wnid).mkdir(parents=True)
    with pytest.raises(
        UserError, match="another set of 100 classes: 1 of them are not in the list"
    ):
        open_source(f"imagenet100:{tmp_path / 'other'}", "train")


def test_a_tree_of_exactly_these_classes_is_recognized(tmp_path):
    import numpy as np

    for wnid in CMC:
        write_image(tmp_path / "train" / wnid / "a.JPEG", np.zeros((4, 4, 3), np.uint8))
    assert recognized(tmp_path) == "imagenet100"
