"""VOC's boxes: Detectron2's values, any classes, and how invalid folders are reported."""

import logging
import os

import pytest
from PIL import Image

from msbreg.data.voc import VOC_CLASSES, classes_of, voc_scenes
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import noise, write_voc, xml

CAT = ("cat", 3, 4, 20, 25, "")


def read(root, split="trainval", **options):
    return voc_scenes("name", root, split, **options)


def test_one_is_subtracted_from_left_and_top_and_fractions_are_kept(tmp_path):
    write_voc(tmp_path, {"a": xml([CAT, ("dog", "1.5", "2.25", 40, 30, "")])})
    scene = read(tmp_path).scenes[0]
    assert [instance.box for instance in scene.instances] == [(2, 3, 20, 25), (0.5, 1.25, 40, 30)]
    assert [instance.label for instance in scene.instances] == [0, 1]
    assert (scene.id, scene.height, scene.width) == ("a", 30, 40)


def test_flags_are_read_and_default_to_false(tmp_path):
    flags = ("cat", 3, 4, 20, 25, "<difficult>1</difficult><truncated>1</truncated>")
    write_voc(tmp_path, {"a": xml([flags, CAT])})
    first, second = read(tmp_path).scenes[0].instances
    assert (first.difficult, first.truncated) == (True, True)
    assert (second.difficult, second.truncated) == (False, False)


def test_parts_of_an_object_are_not_objects(tmp_path):
    head = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    write_voc(tmp_path, {"a": xml([("cat", 3, 4, 20, 25, head)])})
    assert read(tmp_path).classes == ("cat",)
    assert [i.box for i in read(tmp_path).scenes[0].instances] == [(2, 3, 20, 25)]


def test_scenes_follow_the_list_and_may_be_empty_or_use_another_suffix(tmp_path):
    write_voc(tmp_path, {"b": xml([CAT])}, ids=["b", "a"])
    write_voc(tmp_path, {"a": xml([])}, ids=["b", "a"], suffix=".png")
    scenes = read(tmp_path).scenes
    assert [(s.id, s.file.name, len(s.instances)) for s in scenes] == [
        ("b", "b.jpg", 1),
        ("a", "a.png", 0),
    ]


def test_classes_are_collected_from_all_annotations_and_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("msbreg"), "propagate", True)
    write_voc(tmp_path, {"a": xml([("zebra", 1, 1, 5, 5, "")]), "b": xml([CAT])}, ids=["a"])
    with caplog.at_level(logging.INFO, logger="msbreg"):
        assert read(tmp_path).classes == ("cat", "zebra")
    assert "2 classes found in Annotations: cat, zebra" in caplog.text


def test_given_classes_override_the_classes_file_which_overrides_annotations(tmp_path):
    write_voc(tmp_path, {"a": xml([CAT])})
    (tmp_path / "classes.txt").write_text("traffic light\n\ncat\n", encoding="utf-8-sig")
    assert read(tmp_path).classes == ("traffic light", "cat")
    assert read(tmp_path).scenes[0].instances[0].label == 1
    assert read(tmp_path, classes=["cat"]).scenes[0].instances[0].label == 0


def test_the_classes_of_voc_are_in_alphabetical_order():
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


@pytest.mark.parametrize(("folder", "year"), [("VOC2007", 2007), ("VOC2012", 2012), ("mine", None)])
def test_the_year_is_read_from_the_folder_name(tmp_path, folder, year):
    assert read(write_voc(tmp_path / folder, {"a": xml([CAT])})).year == year


def test_the_year_is_read_from_the_name_of_a_link(tmp_path):
    write_voc(tmp_path / "store", {"a": xml([CAT])})
    (tmp_path / "VOC2007").symlink_to(tmp_path / "store")
    assert read(tmp_path / "VOC2007").year == 2007


@pytest.mark.parametrize("box", [(0, 0, 41, 31), (1, 1, 40, 30), (40, 30, 40, 30), (0, 5, 3, 9)])
def test_boxes_may_extend_one_pixel_beyond_the_image_or_be_one_pixel_large(tmp_path, box):
    write_voc(tmp_path, {"a": xml([("cat", *box, "")])})
    left, top, right, bottom = box
    assert read(tmp_path).scenes[0].instances[0].box == (left - 1, top - 1, right, bottom)


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((-1, 1, 9, 9), "outside_box"),
        ((1, -0.5, 9, 9), "outside_box"),
        ((1, 1, 42, 9), "outside_box"),
        ((1, 1, 9, 32), "outside_box"),
        ((10, 1, 9, 9), "empty_box"),
        ((1, 20, 9, 9), "flipped_box"),
    ],
)
def test_odd_boxes_are_kept_and_counted_but_rejected_in_strict_mode(tmp_path, box, kind):
    write_voc(tmp_path, {"a": xml([CAT, ("cat", *box, "")])})
    scenes = read(tmp_path)
    left, top, right, bottom = box
    assert scenes.scenes[0].instances[1].box == (left - 1, top - 1, right, bottom)
    assert scenes.oddities == {kind: 1}
    (warning,) = scenes.warnings
    assert "Annotations: 1 boxes " in warning
    assert "a.xml: object 2 (cat): bndbox" in warning
    with pytest.raises(UserError, match=r"a\.xml: object 2 \(cat\): .*--strict-data"):
        read(tmp_path, strict=True)


@pytest.mark.parametrize("flag", ["difficult", "truncated"])
def test_flags_with_other_values_are_counted(tmp_path, flag):
    write_voc(tmp_path, {"a": xml([(*CAT[:5], f"<{flag}>2</{flag}>")])})
    scenes = read(tmp_path)
    assert scenes.oddities == {f"{flag}_value": 1}
    instance = scenes.scenes[0].instances[0]
    assert (instance.difficult, instance.truncated) == (flag == "difficult", False)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (("nan", 1, 9, 9), "is not finite"),
        ((1, 1, "inf", 9), "is not finite"),
        (("left", 1, 9, 9), "bndbox: xmin is 'left'; expected a number"),
        ((1, 1, 9, ""), "bndbox: ymax is missing or empty"),
    ],
)
def test_invalid_boxes_are_reported_with_file_and_object(tmp_path, box, words):
    write_voc(tmp_path, {"a": xml([CAT, ("cat", *box, "")])})
    with pytest.raises(UserError, match=rf"a\.xml: object 2 \(cat\): .*{words}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>\n<size>\n</annotation>", r"a\.xml:3 is malformed XML: mismatched tag"),
        ("", r"a\.xml:1 is malformed XML: no element found"),
        ("<annotation/>", "size is missing; expected size/width"),
        ("<annotation><size><width>9</width></size></annotation>", "size: height is missing"),
        (xml([], height=0), "size: height is 0; expected a positive integer"),
        (xml([], width=250_000_000), "width 250000000; expected at most 65536"),
        (xml([], width="1" * 400), "size: width is inf; expected a positive integer"),
        (xml([], width="4.5"), "size: width is 4.5; expected a positive integer"),
        (xml([], width=30, height=40), "gives 30 x 40; height and width are swapped"),
        (xml([], width=41), r"a\.jpg has 40 x 30 pixels .*a\.xml gives 41 x 30"),
        (xml([("", 1, 1, 5, 5, "")]), r"a\.xml: object 1: name is missing or empty"),
        (
            xml([("gnu", 1, 1, 5, 5, "")]),
            r"object 1 \(gnu\): unknown class; expected one of the 1 classes: cat",
        ),
        (
            xml([(*CAT[:5], "<difficult>yes</difficult>")]),
            r"\(cat\): difficult is 'yes'; expected 0 or 1",
        ),
        (xml([CAT]).replace("bndbox", "box"), r"object 1 \(cat\): bndbox is missing"),
        ('<?xml version="1.0" encoding="wrong"?><annotation/>', "is malformed XML"),
    ],
)
def test_invalid_annotations_are_reported(tmp_path, text, words):
    write_voc(tmp_path, {"a": text})
    with pytest.raises(UserError, match=words):
        read(tmp_path, classes=("cat",))


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("Annotations/a.xml", r"Annotations/a\.xml does not exist; expected the annotations"),
        ("JPEGImages/a.jpg", r"missing images: 1 of 2, the first: .*JPEGImages/a\.jpg"),
        ("ImageSets/Main/trainval.txt", r"trainval\.txt does not exist; expected the image ids"),
    ],
)
def test_missing_files_are_reported(tmp_path, remove, words):
    write_voc(tmp_path, {"a": xml([CAT]), "b": xml([CAT])})
    (tmp_path / remove).unlink()
    with pytest.raises(UserError, match=words):
        read(tmp_path, classes=("cat",))


def test_an_annotation_that_is_a_pipe_is_not_waited_for(tmp_path):
    write_voc(tmp_path, {"a": xml([CAT])})
    (tmp_path / "Annotations" / "a.xml").unlink()
    os.mkfifo(tmp_path / "Annotations" / "a.xml")
    with pytest.raises(UserError, match=r"a\.xml cannot be read: not a regular file"):
        read(tmp_path, classes=("cat",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"trainval\.txt is empty"),
        ("\n\n", r"trainval\.txt is empty"),
        ("a\nb\na\n", r"trainval\.txt:3 lists the image a a second time \(first in line 1\)"),
        ("a 1\n", r"trainval\.txt:1 is 'a 1'; expected one image id"),
        ("a\0b\n", r"Annotations/a.*b\.xml"),
    ],
)
def test_invalid_lists_are_reported(tmp_path, text, words):
    write_voc(tmp_path, {"a": xml([CAT]), "b": xml([CAT])})
    (tmp_path / "ImageSets/Main/trainval.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read(tmp_path, classes=("cat",))


def test_a_file_that_is_not_an_image_is_rejected_by_name(tmp_path):
    write_voc(tmp_path, {"a": xml([CAT])})
    (tmp_path / "JPEGImages/a.jpg").write_text("not an image")
    with pytest.raises(
        UserError, match=r"a\.jpg cannot be decoded: its 12 bytes are not in a known"
    ):
        read(tmp_path)


def test_the_size_is_compared_after_the_exif_rotation(tmp_path):
    write_voc(tmp_path, {"a": xml([CAT])})
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(40, 30).save(tmp_path / "JPEGImages/a.jpg", exif=exif)
    assert read(tmp_path).scenes[0].width == 40
    noise(30, 40).save(tmp_path / "JPEGImages/a.jpg", exif=exif)
    with pytest.raises(UserError, match="do not account for the EXIF rotation"):
        read(tmp_path)


def test_annotations_can_be_read_without_images(tmp_path):
    write_voc(tmp_path, {"a": xml([CAT])})
    (tmp_path / "JPEGImages/a.jpg").unlink()
    assert len(read(tmp_path, look_at_images=False).scenes) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("\n", "classes.txt is empty"), ("a\nb\na\n", "classes.txt contains a twice")],
)
def test_an_invalid_classes_file_is_reported(tmp_path, text, words):
    write_voc(tmp_path, {"a": xml([CAT])})
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        classes_of(tmp_path)


def test_a_folder_without_objects_has_no_classes(tmp_path):
    with pytest.raises(UserError, match="contains 1 annotations but no objects"):
        read(write_voc(tmp_path, {"a": xml([])}))
