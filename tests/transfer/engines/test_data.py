"""What a yaml names is what is there."""

import pytest

from msbreg.errors import UserError
from tests.transfer.boxes_data import make_voc, tiny_card
from transfer.engines.data import data_of
from transfer.engines.settings import read_config


def data(tmp_path, *overrides: str, train: bool = True):
    root = tmp_path / "boxes"
    if not root.exists():
        make_voc(root)
    return data_of(read_config(tiny_card(tmp_path, root), overrides), None, train=train)


def test_splits_are_described_for_the_record(tmp_path):
    said = data(tmp_path).described()
    assert {which: split["images"] for which, split in said.items()} == {"train": 10, "test": 4}
    assert said["train"]["fingerprint"] != said["test"]["fingerprint"]
    assert data(tmp_path, train=False).described() == {"test": said["test"]}
    assert data(tmp_path).described() == said


def test_a_changed_annotation_changes_the_fingerprint(tmp_path):
    before = data(tmp_path).described()["test"]["fingerprint"]
    (last,) = (tmp_path / "boxes" / "VOC2007" / "Annotations").glob("000013.xml")
    last.write_text(last.read_text().replace("<difficult>0", "<difficult>1", 1))
    assert data(tmp_path).described()["test"]["fingerprint"] != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("MODEL.ROI_HEADS.NUM_CLASSES", "3"), "Give: MODEL.ROI_HEADS.NUM_CLASSES 2"),
        (("DATASETS.TEST", "()"), r"DATASETS.TEST is \[\]; expected one data set"),
        (("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
        (("DATASETS.TRAIN", "('digits_voc_trainval',)"), "expected the same, in the same order"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, monkeypatch, words, message):
    if "digits" in words[1]:
        other = make_voc(tmp_path / "other")
        for file in (other / "VOC2007" / "Annotations").iterdir():
            file.write_text(file.read_text().replace("red", "green"))
        words = (words[0], f"('voc:{other}:trainval',)")
    with pytest.raises(UserError, match=message):
        data(tmp_path, *words)
