"""Drawings show scores and detections next to the ground truth, on white and on black pages."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msbreg.data.scenes import Instance, KeypointSet, Prediction, Scene, Scenes
from msbreg.run.errors import UserError
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict
from transfer.drawing.detection_sheets import (
    detection_sheet,
    precision_recall_curves,
    write_drawings,
)
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.voc_ap import voc_ap


@pytest.fixture
def drawn(tmp_path):
    """Twelve gray images with objects, and predictions with masks."""
    scenes = coco_scenes(np.random.default_rng(0), 12)
    files = tuple(replace(s, file=tmp_path / f"{s.id}.png") for s in scenes.scenes)
    for scene in files:
        Image.new("RGB", (scene.width, scene.height), (90, 90, 90)).save(scene.file)
    scenes = replace(scenes, scenes=files)
    return scenes, predict(np.random.default_rng(1), scenes, masks=box_masks)


def one(tmp_path, objects, boxes, size=(100, 60)):
    """A gray image with cats, and detections in it."""
    file = tmp_path / "cat.png"
    Image.new("RGB", size, (90, 90, 90)).save(file)
    scenes = Scenes("cats", ("cat",), (Scene("a", file, size[1], size[0], tuple(objects)),))
    found = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.6, len(found)).astype(np.float32)
    return scenes, [Prediction("a", found, scores, np.zeros(len(found), np.int64))]


def colors(image):
    return {color[:3] for _, color in image.getcolors(1 << 20) if color[3] == 255}


GREEN, BLUE, ORANGE = (63, 159, 107), (58, 134, 200), (203, 113, 25)


def test_curves_are_an_svg_that_follows_the_color_scheme(drawn):
    scores = coco_ap(*drawn)
    text = precision_recall_curves(scores)
    ET.fromstring(text)
    assert "prefers-color-scheme:dark" in text
    assert "currentColor" in text
    for row in scores.table():
        result = "no objects" if not row["objects"] else f"AP {row['AP']:.1f}"
        assert f">{row['class']}: {result}</text>" in text


def test_equal_scores_give_equal_bytes(drawn):
    scores = voc_ap(*drawn)
    assert precision_recall_curves(scores) == precision_recall_curves(scores)


def test_many_classes_have_as_many_plots(drawn):
    scenes, predictions = drawn
    many = replace(
        scenes, classes=tuple(f"class {k}" for k in range(26)), category_ids=tuple(range(26))
    )
    text = precision_recall_curves(coco_ap(many, predictions))
    assert text.count("no objects") == 22
    assert "class 25" in text


def test_a_hit_is_blue_next_to_the_green_ground_truth(tmp_path):
    cats = one(tmp_path, [Instance((20, 10, 60, 50), 0)], [(20, 10, 60, 48)])
    used_colors = colors(detection_sheet(*cats))
    assert {GREEN, BLUE} <= used_colors
    assert ORANGE not in used_colors


def test_a_miss_is_orange(tmp_path):
    cats = one(tmp_path, [Instance((20, 10, 60, 50), 0)], [(70, 10, 90, 48)])
    used_colors = colors(detection_sheet(*cats))
    assert {GREEN, ORANGE} <= used_colors
    assert BLUE not in used_colors


def test_boxes_are_drawn_at_their_coordinates(tmp_path):
    scenes, predictions = one(
        tmp_path, [Instance((25, 15, 75, 45), 0)], [(25, 15, 75, 45)], (100, 60)
    )
    sheet = np.array(detection_sheet(scenes, predictions))[22:]  # below the heading
    rows, columns = np.nonzero((sheet[..., :3] == GREEN).all(-1))
    inside = rows > 20  # the label above the box is also green
    scale = 224 / 100
    assert columns.min() == pytest.approx(25 * scale, abs=1)
    assert columns.max() == pytest.approx(75 * scale - 1, abs=1)
    assert rows[inside].max() == pytest.approx(45 * scale - 1, abs=1)


@pytest.mark.parametrize(("count", "named"), [(8, True), (9, False)])
def test_labels_do_not_cover_a_picture_with_many_boxes(tmp_path, count, named):
    objects = [Instance((10 * k, 30, 10 * k + 8, 40), 0) for k in range(count)]
    scenes, predictions = one(tmp_path, objects, [objects[0].box])
    plain = np.array(detection_sheet(scenes, predictions))[:, :224]  # the ground truth
    renamed = np.array(detection_sheet(replace(scenes, classes=("lion",)), predictions))[:, :224]
    end = 22 + 130  # the caption is below
    assert (plain[:end] != renamed[:end]).any() == named


def test_the_sheet_is_transparent_around_its_pictures(drawn):
    sheet = detection_sheet(*drawn)
    assert sheet.mode == "RGBA"
    assert sheet.getpixel((sheet.width - 1, 0))[3] == 0


def test_a_split_in_which_nothing_is_found_has_a_sheet(tmp_path):
    scenes, predictions = one(tmp_path, [Instance((20, 10, 60, 50), 0)], [])
    assert detection_sheet(scenes, predictions).width > 0


def test_all_files_are_written_and_named(tmp_path, drawn):
    scores = {"box": coco_ap(*drawn), "mask": coco_ap(*drawn, "segm")}
    folder = tmp_path / "run"
    folder.mkdir()
    names = write_drawings(folder, *drawn, scores)
    assert names == ["curves_box.svg", "curves_mask.svg", "detections.webp"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    with Image.open(folder / "detections.webp") as sheet:
        assert sheet.size[0] > 800


def test_an_image_that_is_missing_is_named(drawn):
    scenes, predictions = drawn
    gone = replace(scenes, scenes=tuple(replace(s, file=Path("gone.png")) for s in scenes.scenes))
    with pytest.raises(UserError, match=r"gone\.png"):
        detection_sheet(gone, predictions)


def test_keypoints_and_their_skeleton_are_drawn_if_labeled(tmp_path):
    points = (20.5, 20.5, 2.0, 60.5, 20.5, 2.0, 40.5, 50.5, 0.0)
    box = (10.0, 10.0, 80.0, 55.0)
    scenes, found = one(tmp_path, [Instance(box, 0, keypoints=points)], [box])
    edges = KeypointSet(("a", "b", "c"), skeleton=((0, 1), (1, 2)))
    scenes = replace(scenes, keypoints=edges)
    sheet = np.asarray(detection_sheet(scenes, found))[:, :, :3]
    top, scale = 22, 224 / 100

    def green(x, y):
        return tuple(sheet[top + int(y * scale), int(x * scale)]) == GREEN

    assert green(20.5, 20.5)
    assert green(60.5, 20.5)
    assert any(green(40.5, y) for y in (20, 20.3, 20.6))
    assert not green(40.5, 50.5)
    assert not green(50.5, 35.5)


def test_of_many_classes_those_with_the_most_objects_have_plots(drawn):
    scores = coco_ap(*drawn)
    count = 101
    many = replace(
        scores,
        classes=tuple(f"class {k}" for k in range(count)),
        objects=np.arange(count),
        detections=np.zeros(count, np.int64),
        class_ap=np.zeros((10, count)),
        precision=np.zeros((10, 101, count)),
    )
    text = precision_recall_curves(many)
    assert ">class 0:" not in text
    assert text.index(">class 1:") < text.index(">class 100:")
