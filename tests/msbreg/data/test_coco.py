"""COCO's instances: what is read, and how invalid files are reported."""

import json
import os

import numpy as np
import pytest
from pycocotools import mask as codec

from msbreg.data.catalog import drawable
from msbreg.data.coco import coco_scenes
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import coco_content, write_coco
from tests.processes import run_code
from tests.reference.run_lengths import characters

TRIANGLE = [5, 4, 12, 4.5, 8, 10]
SIZE = [30, 40]
FIX = "\nFix it or remove it from the data set, then run the same command again."


def read(root, content, **options):
    return coco_scenes("name", *write_coco(root, content), **options)


def one(root, **change):
    return read(root, coco_content([change])).scenes[0].instances[0]


def compressed(height=30, width=40):
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[5:20, 7:30] = 1
    run_lengths = codec.encode(mask)
    return {"size": [height, width], "counts": run_lengths["counts"].decode()}


def test_images_are_sorted_by_id_and_labels_by_category_id(tmp_path):
    content = coco_content(
        [{"image_id": 3}, {"category_id": 2}, {"image_id": 3, "category_id": 2}],
        images=[(7, 30, 40), (3, 30, 40), (5, 8, 9)],
        categories=[(5, "dog"), (2, "cat")],
    )
    scenes = read(tmp_path, content)
    assert scenes.classes == ("cat", "dog")
    assert scenes.category_ids == (2, 5)
    labels = {scene.id: [i.label for i in scene.instances] for scene in scenes.scenes}
    assert list(labels.items()) == [(3, [1, 0]), (5, []), (7, [0])]
    assert scenes.scenes[1].file.name == "5.png"


def test_boxes_are_converted_to_xyxy(tmp_path):
    assert one(tmp_path).box == (4.5, 3.0, 14.5, 11.0)


def test_integers_are_read_as_floats(tmp_path):
    instance = one(tmp_path, bbox=[1, 2, 3, 4], segmentation=[[1, 2, 3, 4, 5, 6]], area=6)
    numbers = [*instance.box, *instance.mask[0], instance.area]
    assert {type(value) for value in numbers} == {float}


def test_all_three_mask_formats_are_read(tmp_path):
    runs = {"size": SIZE, "counts": [100, 20, 1080]}
    assert one(tmp_path, segmentation=[TRIANGLE]).mask == (tuple(map(float, TRIANGLE)),)
    assert one(tmp_path, segmentation=compressed()).mask == compressed()
    assert one(tmp_path, segmentation=runs, iscrowd=1).mask == runs
    assert one(tmp_path, segmentation=runs, iscrowd=1).crowd
    assert one(tmp_path).mask is None
    assert one(tmp_path, segmentation=[]).mask is None


def test_boxes_may_extend_one_pixel_beyond_the_image(tmp_path):
    assert one(tmp_path, bbox=[-1, -1, 42, 32]).box == (-1, -1, 41, 31)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"bbox": [4, 3, 0, 8]}, "empty_box"),
        ({"bbox": [4, 3, 5, 0], "segmentation": [TRIANGLE]}, "empty_box"),
        ({"bbox": [4, 3, -5, 8]}, "flipped_box"),
        ({"bbox": [4, 3, 38, 8]}, "outside_box"),
        ({"bbox": [4, -1.5, 8, 8]}, "outside_box"),
        ({"bbox": [400, 300, 8, 8]}, "outside_box"),
        ({"segmentation": [TRIANGLE, [1, 2, 3, 4]]}, "short_ring"),
        ({"segmentation": [TRIANGLE, [1, 2, 3, 4, 5, 6, 7]]}, "short_ring"),
        ({"area": "big"}, "no_area"),
        ({"area": 10**400}, "no_area"),
        ({"iscrowd": 2}, "crowd_value"),
    ],
)
def test_oddities_are_kept_and_counted_but_rejected_in_strict_mode(tmp_path, change, kind):
    content = coco_content([{}, change, change])
    scenes = read(tmp_path, content)
    assert len(scenes.scenes[0].instances) == 3
    assert scenes.oddities == {kind: 2}
    (warning,) = scenes.warnings
    assert "instances.json: 2 " in warning
    assert "the first is " in warning
    assert "annotation id 2 (image 7, 7.png)" in warning
    with pytest.raises(UserError, match=r"annotation id 2 \(image 7, 7.png\).*\(--strict-data\)"):
        read(tmp_path, content, strict=True)


def test_valid_data_have_no_oddities_and_pass_strict_mode(tmp_path):
    content = coco_content([{"segmentation": [TRIANGLE], "area": 3}, {"segmentation": []}])
    scenes = read(tmp_path, content)
    assert (scenes.oddities, scenes.warnings) == ({}, ())
    assert read(tmp_path, content, strict=True) == scenes


def test_only_polygons_with_three_points_are_kept(tmp_path):
    mask = one(
        tmp_path, segmentation=[[1, 2, 3, 4], TRIANGLE, [1, 2, 3, 4, 5, 6, 7], TRIANGLE]
    ).mask
    assert mask == (tuple(map(float, TRIANGLE)),) * 2


def test_an_object_without_a_valid_polygon_is_kept_for_scoring_only(tmp_path):
    scenes = read(tmp_path, coco_content([{}, {"segmentation": [[1, 2, 3, 4], []]}]))
    assert [i.mask for i in scenes.scenes[0].instances] == [None, ()]
    assert scenes.oddities == {"short_ring": 2, "no_ring": 1}
    assert [i.mask for i in drawable(scenes).scenes[0].instances] == [None]


@pytest.mark.parametrize("image_id", [8, "7"])
def test_annotations_of_unlisted_images_are_dropped(tmp_path, image_id):
    scenes = read(tmp_path, coco_content([{"image_id": image_id}, {}]))
    assert len(scenes.scenes[0].instances) == 1
    assert scenes.oddities == {"other_image": 1}


def test_of_images_with_the_same_id_the_last_is_kept(tmp_path):
    scenes = read(tmp_path, coco_content([{}], images=[(7, 20, 30), (7, 30, 40)]))
    assert [(s.id, s.height, len(s.instances)) for s in scenes.scenes] == [(7, 30, 1)]
    assert scenes.oddities == {"same_image_id": 1}


def test_sizes_may_be_floats_without_a_fraction(tmp_path):
    file, images = write_coco(tmp_path, coco_content())
    file.write_text(file.read_text().replace('"width": 40', '"width": 40.0'))
    assert coco_scenes("name", file, images).scenes[0].width == 40


@pytest.mark.parametrize("far", [200_000, -200_000, 1e9, 1e300, float("inf"), float("nan")])
def test_polygons_that_would_crash_pycocotools_are_rejected(tmp_path, far):
    with pytest.raises(
        UserError, match="polygon 1 has coordinates from .*; expected pixels from -131072"
    ):
        one(tmp_path, segmentation=[[1, 2, far, 4, 5, 6]])


def test_polygons_may_have_many_corners_outside_the_image(tmp_path):
    ring = [
        130_000.0,
        -130_000.0,
    ] * 50  # whose length as a vector is beyond the bound of its numbers
    assert one(tmp_path, segmentation=[ring]).mask == (tuple(ring),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": None}, "image_id is missing"),
        ({"id": 1}, "annotation id 1 occurs twice"),
        (
            {"category_id": 3},
            r"\(image 7, 7.png\): category_id 3 is unknown; expected one of the 2 categories: 2, 5",
        ),
        ({"category_id": "5"}, "category_id is '5'; expected an integer"),
        ({"category_id": None}, "category_id is missing"),
        ({"category_id": []}, r"category_id is \[\]; expected an integer"),
        (
            {"category_id": 10**400},
            r"category_id 1000.*\.\.\. is unknown; expected one of the 2 categories",
        ),
        ({"image_id": []}, r"image_id is \[\]; expected an integer or a string"),
        ({"iscrowd": "yes"}, "iscrowd is 'yes'; expected 0 or 1"),
        ({"bbox": [10**400, 3, 5, 8]}, r"bbox is \[1000.*\.\.\.; expected 4 numbers"),
        ({"bbox": [4, 3, 1e400, 8]}, "is not finite"),
        ({"bbox": {"x": 4}}, "expected 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 10**400]]}, "polygon 1 is not a list of numbers"),
        ({"segmentation": {"size": SIZE, "counts": "\ud800"}}, "not valid COCO run lengths"),
        ({"segmentation": {"size": SIZE, "counts": [2**32]}}, "cover 4294967296 pixels"),
        ({"segmentation": {"size": SIZE, "counts": [10**400]}}, r"cover 1000.*\.\.\. pixels"),
        ({"segmentation": {"size": 10**400, "counts": []}}, r"have size 1000.*\.\.\.; expected"),
        ({"segmentation": {"size": SIZE, "counts": characters([2**32])}}, "4294967296 pixels"),
        ({"segmentation": {"size": SIZE, "counts": "o" * 39 + "0"}}, "a run of more than 2"),
        ({"bbox": [4, 3, float("nan"), 8]}, "is not finite"),
        ({"bbox": [4, 3, 5]}, r"bbox is \[4, 3, 5\]; expected 4 numbers x, y, width, height"),
        ({"bbox": [4, 3, "5", 8]}, "expected 4 numbers"),
        ({"bbox": []}, "expected 4 numbers"),
        ({"bbox": None}, "bbox is None; expected 4 numbers"),
        ({"ignore": 1}, "ignore is set"),
        ({"segmentation": TRIANGLE}, "polygon 1 is not a list of numbers"),
        ({"segmentation": [["1", "2", "3", "4", "5", "6"]]}, "polygon 1 is not a list of numbers"),
        ({"segmentation": [[[1, 2]] * 6]}, "polygon 1 is not a list of numbers"),
        ({"segmentation": "text"}, "segmentation: 'text'; expected a list of polygons"),
        (
            {"segmentation": compressed(40, 30)},
            r"size \[40, 30\]; expected the size of the image, \[30, 40\]",
        ),
        ({"segmentation": {"size": SIZE, "counts": [3, 4]}}, "cover 7 pixels; expected 1200, all"),
        ({"segmentation": {"size": SIZE, "counts": [1201, -1]}}, "have no valid counts"),
        ({"segmentation": {"size": SIZE}}, "have no valid counts"),
        ({"segmentation": {"size": SIZE, "counts": compressed(30, 39)["counts"]}}, "1170 pixels"),
        ({"segmentation": {"size": SIZE, "counts": "a b"}}, "not valid COCO run lengths"),
    ],
)
def test_invalid_annotations_are_reported(tmp_path, change, words):
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, coco_content([{}, change]))
    assert "instances.json: annotation id" in str(caught.value)
    assert str(caught.value).endswith(FIX)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [', r"instances\.json is malformed JSON: .*line 1 column"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "categories": []}', "has no list 'annotations'"),
        (coco_content(images=[]), "lists no images"),
        (coco_content(categories=[]), "has no categories"),
        (
            coco_content(categories=[(1, "a"), (1, "b")]),
            "category 2 of 2: id 1 is already used by 'a'",
        ),
        (coco_content(images=[(7, 30, 250_000_000)]), "width 250000000; expected at most 65536"),
        (
            coco_content(images=[(7, 60_000, 60_000)]),
            "expected at most 65536 each and at most 178956970",
        ),
        (coco_content(images=[(7, 30, 10**400)]), r"width 1000.*\.\.\.; expected at most 65536"),
        (
            coco_content(categories=[(1, "\ud800")]),
            r"name is '\\ud800', which is not valid Unicode",
        ),
        ('{"images": [' + "1" * 5000, "is malformed JSON: .*4300 digits"),
        (coco_content(images=[(7, 3, 3), ("8", 3, 3)]), "image ids of types int, str"),
        (coco_content(images=[(7, 3, 0)]), "image 1 of 1: height 3 and width 0"),
        (
            coco_content(images=[(7, 3, 2.5)]),
            r"image 1 of 1: width is 2\.5; expected an integer",
        ),
        (coco_content(images=[(None, 3, 3)]), "image 1 of 1: id is missing"),
        ({**coco_content(), "annotations": ["text"]}, "annotation 1 of 1: id is missing"),
    ],
)
def test_invalid_files_are_reported(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, content)


def test_missing_images_are_reported(tmp_path):
    file, images = write_coco(tmp_path, coco_content(images=[(7, 30, 40), (8, 30, 40)]))
    (images / "8.png").unlink()
    with pytest.raises(UserError, match=r"missing images: 1 of 2, the first: .*8\.png .*image 8"):
        coco_scenes("name", file, images)
    assert len(coco_scenes("name", file, images, look_at_images=False).scenes) == 2


def test_images_with_another_size_than_annotated_are_reported(tmp_path):
    file, images = write_coco(tmp_path, coco_content())
    file.write_text(file.read_text().replace('"width": 40', '"width": 41'))
    with pytest.raises(UserError, match=r"7\.png has 40 x 30 pixels .* image 7 gives 41 x 30"):
        coco_scenes("name", file, images)


def test_a_missing_file_or_folder_is_reported(tmp_path):
    file, images = write_coco(tmp_path, coco_content())
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        coco_scenes("name", tmp_path / "none.json", images)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json cannot be read: not a regular file"):
        coco_scenes("name", tmp_path / "pipe.json", images)
    with pytest.raises(UserError, match="no_folder not found; expected the images of"):
        coco_scenes("name", file, tmp_path / "no_folder")


def test_an_impossible_file_name_counts_as_missing(tmp_path):
    file, images = write_coco(tmp_path, coco_content())
    for name in ("x" * 5000, "\0"):
        file.write_text(file.read_text().replace("7.png", json.dumps(name)[1:-1]))
        with pytest.raises(UserError, match="missing images: 1 of 1") as caught:
            coco_scenes("name", file, images)
        assert len(str(caught.value)) < 1000
        file.write_text(file.read_text().replace(json.dumps(name)[1:-1], "7.png"))


def test_a_width_of_250_million_pixels_is_rejected_without_a_crash(tmp_path):
    # In a separate process, because pycocotools would crash it with SIGSEGV.
    content = coco_content([{"segmentation": [TRIANGLE]}])
    file, _ = write_coco(tmp_path, content)
    file.write_text(file.read_text().replace('"width": 40', '"width": 250000000'))
    code = f"""
from pathlib import Path
from msbreg.data.coco import coco_scenes
from msbreg.data.run_lengths import to_rle
scene = coco_scenes("x", Path({str(file)!r}), Path(), look_at_images=False).scenes[0]
to_rle(scene.instances[0].mask, scene.height, scene.width)
"""
    exit_code, _, message = run_code(code)
    assert exit_code == 1
    assert "UserError" in message
    assert "width 250000000; expected at most 65536" in message
