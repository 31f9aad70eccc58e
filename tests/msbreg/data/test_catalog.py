"""Scenes by name: where they are found, joined splits, and Detectron2's filter."""

import logging
import shutil
from pathlib import Path

import pytest

from msbreg.data.catalog import join_scenes, load_scenes, without_empty
from msbreg.data.voc import VOC_CLASSES
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import coco_content, shared, write_coco, write_voc, xml

DOG = ("dog", 3, 4, 20, 25, "")


@pytest.mark.parametrize("place", ["VOC2007", "VOCdevkit/VOC2007", "."])
def test_voc_is_found_in_the_layouts_of_detectron2_and_the_devkit(tmp_path, place):
    write_voc(tmp_path / place, {"a": xml([DOG])})
    scenes = load_scenes("voc_2007_trainval", tmp_path)
    assert scenes.classes == VOC_CLASSES
    assert scenes.year == 2007
    assert scenes.scenes[0].instances[0].label == VOC_CLASSES.index("dog")


def test_a_voc_folder_is_not_used_for_another_year(tmp_path):
    write_voc(tmp_path / "VOC2007", {"a": xml([DOG])})
    with pytest.raises(UserError, match="VOC2007 does not have VOC's layout"):
        load_scenes("voc_2012_trainval", tmp_path / "VOC2007")


def test_voc_07_and_12_are_joined_in_order(tmp_path):
    write_voc(tmp_path / "VOC2007", {"000005": xml([DOG]), "000007": xml([])})
    write_voc(tmp_path / "VOC2012", {"2008_000008": xml([DOG])})
    joined = join_scenes([load_scenes(f"voc_{y}_trainval", tmp_path) for y in (2007, 2012)])
    assert joined.name == "voc_2007_trainval + voc_2012_trainval"
    assert [scene.id for scene in joined.scenes] == ["000005", "000007", "2008_000008"]
    assert joined.year is None


def test_ids_of_joined_folders_are_unique(tmp_path):
    for folder in ("one", "two"):
        write_voc(tmp_path / folder, {"1": xml([DOG])})
    joined = join_scenes([load_scenes(f"voc:{f}:trainval", tmp_path) for f in ("one", "two")])
    assert [scene.id for scene in joined.scenes] == ["voc:one:trainval/1", "voc:two:trainval/1"]


def test_joining_one_split_returns_it_unchanged(tmp_path):
    scenes = load_scenes("voc_2007_trainval", write_voc(tmp_path, {"a": xml([DOG])}))
    assert join_scenes([scenes]) is scenes


def test_incompatible_splits_cannot_be_joined(tmp_path):
    write_voc(tmp_path / "one", {"1": xml([DOG])})
    write_voc(tmp_path / "two", {"1": xml([("cat", 3, 4, 20, 25, "")])})
    one, two = (load_scenes(f"voc:{folder}:trainval", tmp_path) for folder in ("one", "two"))
    with pytest.raises(UserError, match="have different classes"):
        join_scenes([one, two])
    with pytest.raises(UserError, match=r"contain .*1\.jpg twice"):
        join_scenes([one, one])
    with pytest.raises(UserError, match="no data sets were given"):
        join_scenes([])


def test_custom_classes_under_a_voc_name_are_rejected_with_the_name_to_use(tmp_path):
    write_voc(tmp_path / "VOC2007", {"a": xml([DOG, ("gnu", 3, 4, 20, 25, "")])})
    with pytest.raises(
        UserError, match="gnu.*unknown class; expected one of the 20 classes: aeroplane"
    ) as caught:
        load_scenes("voc_2007_trainval", tmp_path)
    folder = tmp_path / "VOC2007"
    for words in (
        "contains 2 custom classes (dog, gnu)",
        f"DATASETS.TRAIN to \"('voc:{folder}:trainval',)\"",
        "MODEL.ROI_HEADS.NUM_CLASSES to 2",
    ):
        assert words in str(caught.value)
    assert load_scenes(f"voc:{folder}:trainval").classes == ("dog", "gnu")


@pytest.mark.parametrize("place", ["coco", "."])
def test_coco_is_found_in_the_layout_of_detectron2(tmp_path, place):
    root = tmp_path / place
    file, images = write_coco(root, coco_content([{}]))
    (root / "annotations").mkdir()
    shutil.move(file, root / "annotations" / "instances_val2017.json")
    images.rename(root / "val2017")
    assert load_scenes("coco_2017_val", tmp_path).category_ids == (2, 5)
    with pytest.raises(UserError, match=r"does not have COCO's layout.*instances_train2017\.json"):
        load_scenes("coco_2017_train", tmp_path)


def test_a_folder_is_loaded_by_layout_and_path(tmp_path, monkeypatch):
    write_coco(tmp_path, coco_content([{}]))
    write_voc(tmp_path / "VOC2007", {"a": xml([DOG])}, split="mine")
    monkeypatch.chdir(tmp_path)
    assert load_scenes("coco:instances.json:images").name == "coco:instances.json:images"
    assert load_scenes(f"coco:{tmp_path}/instances.json:images", tmp_path).classes == ("cat", "dog")
    assert load_scenes(f"voc:{tmp_path}:mine").classes == ("dog",)
    assert load_scenes("voc:VOC2007:mine", tmp_path, classes=("cat", "dog")).classes == (
        "cat",
        "dog",
    )


def test_a_folder_with_several_years_is_ambiguous(tmp_path):
    for year in (2007, 2012):
        write_voc(tmp_path / f"VOC{year}", {"a": xml([DOG])})
    with pytest.raises(UserError, match="contains several folders with VOC's layout"):
        load_scenes(f"voc:{tmp_path}:trainval")


def test_root_defaults_to_the_environment_variable_of_detectron2(tmp_path, monkeypatch):
    write_voc(tmp_path / "VOC2007", {"a": xml([DOG])})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert len(load_scenes("voc_2007_trainval").scenes) == 1
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Give --data ROOT, or set DETECTRON2_DATASETS"):
        load_scenes("voc_2007_trainval")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("voc_2007_tset", "'voc_2007_tset' is unknown; did you mean voc_2007_test\\?"),
        ("imagenet", "data set 'imagenet' is unknown"),
        ("voc:folder", "is incomplete; expected voc:FOLDER:SPLIT"),
        ("coco:file.json:", "is incomplete; expected coco:JSON:IMAGES"),
        ("voc:nowhere:test", "nowhere does not have VOC's layout"),
    ],
)
def test_invalid_names_are_reported(name, words):
    with pytest.raises(UserError, match=words):
        load_scenes(name)


def test_classes_can_only_be_given_for_folders(tmp_path):
    with pytest.raises(UserError, match="voc_2007_test has fixed classes"):
        load_scenes("voc_2007_test", tmp_path, classes=("cat",))


@pytest.mark.parametrize(
    ("name", "images", "objects", "year"),
    [
        ("digits_voc_trainval", 1200, 2389, 2007),
        ("digits_voc_test", 300, 606, 2007),
        ("digits_coco_train", 600, 1257, None),
        ("digits_coco_val", 120, 256, None),
    ],
)
def test_the_embedded_digits_are_read(name, images, objects, year):
    scenes = load_scenes(name)
    assert len(scenes.scenes) == images
    assert sum(len(scene.instances) for scene in scenes.scenes) == objects
    assert scenes.classes[:3] == ("zero", "one", "two")
    assert scenes.year == year


def test_images_without_usable_annotations_are_dropped_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("msbreg"), "propagate", True)
    content = coco_content(
        [{"image_id": 1}, {"image_id": 2, "iscrowd": 1}], images=[(n, 30, 40) for n in (1, 2, 3)]
    )
    write_coco(tmp_path, content)
    scenes = load_scenes("coco:instances.json:images", tmp_path)
    with caplog.at_level(logging.INFO, logger="msbreg"):
        assert [scene.id for scene in without_empty(scenes).scenes] == [1]
    assert "dropped 2 images without usable annotations, 1 remain" in caplog.text


def test_scenes_with_only_crowds_cannot_be_used_for_training(tmp_path):
    write_coco(tmp_path, coco_content([{"iscrowd": 1}]))
    with pytest.raises(
        UserError, match="none of the 1 images of .* has an object that is not a crowd"
    ):
        without_empty(load_scenes("coco:instances.json:images", tmp_path))


def test_card_photographs_are_read_in_the_layout_of_voc():
    folder = shared("cards-voc")
    train, test = (load_scenes(f"voc:{folder}:{split}") for split in ("trainval", "test"))
    assert train.classes == test.classes == ("ace", "jack", "king", "nine", "queen", "ten")
    assert (len(train.scenes), len(test.scenes)) == (296, 67)
    assert sum(len(s.instances) for s in train.scenes + test.scenes) == 670


def test_nuclei_micrographs_are_read_in_the_layout_of_coco():
    folder = shared("nuclei-coco")
    scenes = load_scenes("coco_2017_val", folder)
    assert len(scenes.scenes) == 87
    assert sum(len(scene.instances) for scene in scenes.scenes) == 2608
    file = Path("annotations/instances_val2017.json")
    assert load_scenes(f"coco:{file}:val2017", folder).scenes == scenes.scenes
