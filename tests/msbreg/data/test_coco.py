"""COCO's instances: what is read, and every way in which a file can be wrong."""

import numpy as np
import pytest
from pycocotools import mask as codec

from msbreg.data.coco import coco_scenes
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import coco_content, write_coco

TRIANGLE = [5, 4, 12, 4.5, 8, 10]
SIZE = [30, 40]
MEND = "\nMend it or take it out of the data set, then give the same command again."


def read(root, content, **options):
    return coco_scenes("name", *write_coco(root, content), **options)


def one(root, **change):
    return read(root, coco_content([change])).scenes[0].instances[0]


def compressed(height=30, width=40):
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[5:20, 7:30] = 1
    run_lengths = codec.encode(mask)
    return {"size": [height, width], "counts": run_lengths["counts"].decode()}


def test_images_go_by_id_and_labels_by_category_id(tmp_path):
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


def test_a_box_becomes_two_corners(tmp_path):
    assert one(tmp_path).box == (4.5, 3.0, 14.5, 11.0)


def test_whole_numbers_are_read_as_floats(tmp_path):
    instance = one(tmp_path, bbox=[1, 2, 3, 4], segmentation=[[1, 2, 3, 4, 5, 6]], area=6)
    numbers = [*instance.box, *instance.mask[0], instance.area]
    assert {type(value) for value in numbers} == {float}


def test_the_three_spellings_of_a_mask_are_kept(tmp_path):
    runs = {"size": SIZE, "counts": [100, 20, 1080]}
    assert one(tmp_path, segmentation=[TRIANGLE]).mask == (tuple(map(float, TRIANGLE)),)
    assert one(tmp_path, segmentation=compressed()).mask == compressed()
    assert one(tmp_path, segmentation=runs, iscrowd=1).mask == runs
    assert one(tmp_path, segmentation=runs, iscrowd=1).crowd
    assert one(tmp_path).mask is None
    assert one(tmp_path, segmentation=[]).mask is None


def test_boxes_may_reach_a_pixel_beyond_the_image(tmp_path):
    assert one(tmp_path, bbox=[-1, -1, 42, 32]).box == (-1, -1, 41, 31)


def test_an_object_drawn_without_area_is_kept_and_said(tmp_path):
    # Annotation 918 of instances_train2017.json.
    flat = [296.65, 388.33, 296.65, 388.33, 297.68, 388.33, 297.68, 388.33]
    content = coco_content(
        [{"bbox": [296.65, 388.33, 1.03, 0.0], "segmentation": [flat], "area": 0.0}],
        images=[(7, 480, 640)],
    )
    scenes = read(tmp_path, content)
    assert len(scenes.scenes[0].instances) == 1
    (doubt,) = scenes.doubts
    assert "1 objects have masks and boxes of no area" in doubt
    assert read(tmp_path, coco_content([{}])).doubts == ()


def test_polygons_may_leave_the_image_but_not_for_where_pycocotools_ends_the_process(tmp_path):
    assert one(tmp_path, segmentation=[[-40, 2, 80, 4, 5, 6]]).mask[0][:3] == (-40, 2, 80)
    for far in (81, -41, 1e9, 1e300, float("inf"), float("nan")):
        with pytest.raises(
            UserError, match="polygon 1 has numbers from .* pixels of an image of 40 x"
        ):
            one(tmp_path, segmentation=[[1, 2, far, 4, 5, 6]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 8}, "image_id 8 is none of the 1 images"),
        ({"image_id": "7"}, "image_id '7' is none of the 1 images"),
        ({"image_id": None}, "image_id is missing"),
        ({"id": 1}, "annotation id 1 occurs twice"),
        (
            {"category_id": 3},
            r"\(image 7, 7.png\): category_id 3 is none of the 2 categories: 2, 5",
        ),
        ({"category_id": "5"}, "category_id is '5'; expected a whole number"),
        ({"category_id": True}, "category_id is True; expected a whole number"),
        ({"bbox": [4, 3, 0, 8]}, r"bbox \[4, 3, 0, 8\] has width 0 and height 8"),
        ({"bbox": [4, 3, 5, 0], "segmentation": [TRIANGLE]}, "has width 5 and height 0"),
        ({"bbox": [4, 3, 0, 0], "segmentation": [[4, 3] * 3]}, "has width 0 and height 0"),
        ({"bbox": [4, 3, -5, 8]}, "has width -5 and height 8"),
        ({"bbox": [4, 3, 38, 8]}, "reaches 2 pixels beyond its image of 40 x 30"),
        ({"bbox": [4, -1.5, 8, 8]}, "reaches 1.5 pixels beyond"),
        ({"bbox": [4, 3, float("nan"), 8]}, "is not finite"),
        ({"bbox": [4, 3, 5]}, r"bbox is \[4, 3, 5\]; expected 4 numbers x, y, width, height"),
        ({"bbox": [4, 3, "5", 8]}, "expected 4 numbers"),
        ({"bbox": []}, "expected 4 numbers"),
        ({"bbox": None}, "bbox is None; expected 4 numbers"),
        ({"iscrowd": 2}, "iscrowd is 2; expected 0 or 1"),
        ({"area": "big"}, "area is 'big'; expected a number"),
        ({"ignore": 1}, "ignore is set"),
        (
            {"segmentation": [[1, 2, 3, 4]]},
            "segmentation: polygon 1 has 4 numbers; expected an even",
        ),
        ({"segmentation": [TRIANGLE, [1, 2, 3, 4, 5, 6, 7]]}, "polygon 2 has 7 numbers"),
        ({"segmentation": [[]]}, "polygon 1 has 0 numbers"),
        ({"segmentation": TRIANGLE}, "polygon 1 is not a list of numbers"),
        ({"segmentation": [["1", "2", "3", "4", "5", "6"]]}, "polygon 1 is not a list of numbers"),
        ({"segmentation": [[[1, 2], [3, 4, 5]]]}, "polygon 1 is not a list of numbers"),
        ({"segmentation": "text"}, "segmentation: 'text'; expected a list of polygons"),
        (
            {"segmentation": compressed(40, 30)},
            r"size \[40, 30\]; expected that of the image, \[30, 4",
        ),
        ({"segmentation": {"size": SIZE, "counts": [3, 4]}}, "cover 7 pixels; expected all 1200"),
        ({"segmentation": {"size": SIZE, "counts": [1201, -1]}}, "have no counts"),
        ({"segmentation": {"size": SIZE}}, "have no counts"),
        ({"segmentation": {"size": SIZE, "counts": compressed(30, 39)["counts"]}}, "1170 pixels"),
        ({"segmentation": {"size": SIZE, "counts": "a b"}}, "not COCO's compressed run lengths"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, coco_content([{}, change]))
    assert "instances.json: annotation id" in str(caught.value)
    assert str(caught.value).endswith(MEND)


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
            "category 2 of 2: id 1 is that of 'a', too",
        ),
        (coco_content(images=[(7, 3, 3), (7, 3, 3)]), r"image 2 of 2: id 7 is that of 7\.png, too"),
        (coco_content(images=[(7, 3, 3), ("8", 3, 3)]), "image ids of types int, str"),
        (coco_content(images=[(7, 3, 0)]), "image 1 of 1: height 3 and width 0"),
        (
            coco_content(images=[(7, 3, 2.5)]),
            r"image 1 of 1: width is 2\.5; expected a whole number",
        ),
        (coco_content(images=[(None, 3, 3)]), "image 1 of 1: id is missing"),
        ({**coco_content(), "annotations": ["text"]}, "annotation 1 of 1: id is missing"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, content)


def test_missing_images_are_named(tmp_path):
    file, images = write_coco(tmp_path, coco_content(images=[(7, 30, 40), (8, 30, 40)]))
    (images / "8.png").unlink()
    with pytest.raises(
        UserError, match=r"1 of 2 images are missing, the first: .*8\.png .*image 8"
    ):
        coco_scenes("name", file, images)
    assert len(coco_scenes("name", file, images, look_at_images=False).scenes) == 2


def test_images_of_another_size_than_stated_are_named(tmp_path):
    file, images = write_coco(tmp_path, coco_content())
    file.write_text(file.read_text().replace('"width": 40', '"width": 41'))
    with pytest.raises(UserError, match=r"7\.png is 40 x 30 pixels .* image 7 states 41 x 30"):
        coco_scenes("name", file, images)


def test_a_missing_file_or_folder_is_named(tmp_path):
    file, images = write_coco(tmp_path, coco_content())
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        coco_scenes("name", tmp_path / "none.json", images)
    with pytest.raises(UserError, match="no_folder is no folder; expected the images of"):
        coco_scenes("name", file, tmp_path / "no_folder")
