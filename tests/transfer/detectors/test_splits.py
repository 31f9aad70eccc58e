"""The data splits that a yaml names."""

import re
from dataclasses import replace

import pytest

from msbreg.run.errors import UserError
from tests.transfer.boxes_data import make_voc, tiny_card
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.splits import Data, data_of


def data(tmp_path, *overrides: str, train: bool = True):
    root = tmp_path / "boxes"
    if not root.exists():
        make_voc(root)
    return data_of(read_config(tiny_card(tmp_path, root), overrides), None, train=train)


def test_splits_are_described_for_the_record(tmp_path):
    description = data(tmp_path).described()
    assert {which: split["images"] for which, split in description.items()} == {
        "train": 10,
        "test": 4,
    }
    assert description["train"]["fingerprint"] != description["test"]["fingerprint"]
    assert data(tmp_path, train=False).described() == {"test": description["test"]}
    assert data(tmp_path).described() == description


def test_a_changed_annotation_changes_the_fingerprint(tmp_path):
    before = data(tmp_path).described()["test"]["fingerprint"]
    (last,) = (tmp_path / "boxes" / "VOC2007" / "Annotations").glob("000013.xml")
    last.write_text(last.read_text().replace("<difficult>0", "<difficult>1", 1))
    assert data(tmp_path).described()["test"]["fingerprint"] != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("MODEL.ROI_HEADS.NUM_CLASSES", "3"), "Give: MODEL.ROI_HEADS.NUM_CLASSES 2"),
        (("DATASETS.TEST", "()"), r"DATASETS.TEST is \[\]; expected a single data set"),
        (("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
        (("DATASETS.TRAIN", "('digits_voc_trainval',)"), "expected the same, in the same order"),
    ],
)
def test_invalid_settings_are_named(tmp_path, monkeypatch, words, message):
    if "digits" in words[1]:
        other = make_voc(tmp_path / "other")
        for file in (other / "VOC2007" / "Annotations").iterdir():
            file.write_text(file.read_text().replace("red", "green"))
        words = (words[0], f"('voc:{other}:trainval',)")
    with pytest.raises(UserError, match=message):
        data(tmp_path, *words)


def test_test_images_that_are_also_training_images_give_a_warning(tmp_path):
    assert data(tmp_path).warnings() == []
    root = tmp_path / "boxes"
    (tmp_path / "link").symlink_to(root / "VOC2007")
    same = data(tmp_path, "DATASETS.TEST", f"('voc:{tmp_path / 'link'}:trainval',)")
    assert same.warnings()[0].startswith("10 of the 10 images of ")


def test_a_class_without_test_objects_gives_a_warning(tmp_path):
    found = data(tmp_path)
    only_blue = [
        replace(scene, instances=tuple(o for o in scene.instances if o.label == 0))
        for scene in found.test.scenes
    ]
    found = Data(found.train, replace(found.test, scenes=tuple(only_blue)))
    assert found.warnings() == [f"{found.test.name} has no object of 1: red"]


def test_an_image_file_of_another_size_changes_the_fingerprint(tmp_path):
    before = data(tmp_path).described()
    image = next((tmp_path / "boxes" / "VOC2007" / "JPEGImages").glob("000013.*"))
    image.write_bytes(image.read_bytes() + b"more")
    after = data(tmp_path).described()
    assert after["test"]["fingerprint"] != before["test"]["fingerprint"]
    assert after["train"] == before["train"]


@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST"])
def test_names_that_are_not_strings_are_rejected(tmp_path, key):
    with pytest.raises(UserError, match=rf"{key} is \[5\]; expected names in quotation marks"):
        data(tmp_path, key, "(5,)")


def test_a_missing_data_folder_is_named_even_if_it_is_not_needed(tmp_path):
    settings = read_config(tiny_card(tmp_path, make_voc(tmp_path / "boxes")))
    for wrong in ("nowhere", "tiny.yaml"):
        with pytest.raises(UserError, match=f"--data: folder .*{wrong}' not found"):
            data_of(settings, tmp_path / wrong, train=True)
    assert data_of(settings, tmp_path, train=True).test.scenes


@pytest.mark.parametrize("change", [("<object>.*</object>", ""), ("<difficult>0", "<difficult>1")])
def test_a_test_split_without_objects_to_score_is_rejected_before_training(tmp_path, change):
    root = make_voc(tmp_path / "boxes")
    (root / "VOC2007" / "classes.txt").write_text("blue\nred\n")
    for number in range(10, 14):
        file = root / "VOC2007" / "Annotations" / f"{number:06d}.xml"
        file.write_text(re.sub(*change, file.read_text()))
    with pytest.raises(UserError, match="has nothing to score: none of its 4 images shows"):
        data(tmp_path)


def test_warnings_of_the_reader_are_passed_on(tmp_path):
    found = data(tmp_path)
    odd = Data(replace(found.train, warnings=("odd",)), replace(found.test, warnings=("also odd",)))
    assert odd.warnings() == ["odd", "also odd"]


def test_unusual_annotations_are_recorded_or_rejected_with_strict_data(tmp_path):
    root = make_voc(tmp_path / "boxes")
    file = root / "VOC2007" / "Annotations" / "000013.xml"
    file.write_text(re.sub(r"<xmax>\d+", "<xmax>999", file.read_text(), count=1))
    settings = read_config(tiny_card(tmp_path, root))
    found = data_of(settings, None, train=True)
    assert found.described()["test"]["oddities"] == {"outside_box": 1}
    assert "oddities" not in found.described()["train"]
    (warning,) = found.warnings()
    assert "1 boxes that extend beyond their image" in warning
    with pytest.raises(UserError, match=r"000013\.xml: object 1 .*--strict-data"):
        data_of(settings, None, train=True, strict=True)


def test_missing_test_masks_are_reported_before_training(tmp_path):
    with pytest.raises(UserError, match=r"(?s)have objects without a mask.*MODEL.MASK_ON False"):
        data(tmp_path, "MODEL.MASK_ON", "True")
