"""Cityscapes' instances: the published layout, Detectron2's geometry, and invalid data."""

import json
import os
import sys

import numpy as np
import pytest

from msbreg.data.catalog import load_scenes
from msbreg.data.run_lengths import decode, to_rle
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import noise
from transfer.detectors.config.yaml_file import default_config
from transfer.detectors.splits import data_of

NAME = "cityscapes_fine_instance_seg_{}"


def square(left, top, side):
    """Corners of a square in the convention of the annotations: indices of its outermost pixels."""
    right, bottom = left + side - 1, top + side - 1
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def write_city(root, split, stem, objects, *, size=(64, 96), city="aachen"):
    """One image in the layout of the published archives."""
    images, truth = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    for folder in (images, truth):
        folder.mkdir(parents=True, exist_ok=True)
    noise(*size).save(images / f"{city}_{stem}_leftImg8bit.png")
    content = {
        "imgHeight": size[0],
        "imgWidth": size[1],
        "objects": [
            {"label": label, "polygon": polygon, **more} for label, polygon, more in objects
        ],
    }
    (truth / f"{city}_{stem}_gtFine_polygons.json").write_text(json.dumps(content))


OBJECTS = [
    ("road", [[0, 0], [95, 0], [95, 63], [0, 63]], {}),
    ("car", square(10, 10, 20), {}),
    ("person", square(24, 15, 10), {}),
    ("polegroup", square(50, 5, 4), {}),
    ("cargroup", square(60, 10, 20), {}),
    ("license plate", square(12, 24, 3), {}),
    ("bus", square(60, 40, 10), {"deleted": 1}),
    ("traffic sign", square(10, 10, 5), {}),
]


@pytest.fixture
def root(tmp_path):
    pytest.importorskip("shapely", reason="Cityscapes' polygons are read by Shapely, not installed")
    for split in ("train", "val"):
        write_city(tmp_path / "cityscapes", split, "000000_000019", OBJECTS)
    write_city(tmp_path / "cityscapes", "train", "000001_000019", OBJECTS[:2], city="bochum")
    return tmp_path


def test_the_published_layout_is_read_by_the_names_of_detectron2(root):
    scenes = load_scenes(NAME.format("train"), root)
    assert [scene.id for scene in scenes.scenes] == [
        "aachen_000000_000019_leftImg8bit.png",
        "bochum_000001_000019_leftImg8bit.png",
    ]
    assert scenes.classes[:3] == ("person", "rider", "car")
    assert scenes.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)
    assert not scenes.sized_boxes
    assert load_scenes(NAME.format("train"), root / "cityscapes").scenes == scenes.scenes


def test_later_objects_cover_earlier_ones_and_groups_are_crowds(root):
    scene = load_scenes(NAME.format("val"), root).scenes[0]
    # From last to first: group of cars, person, car.
    assert [(i.label, i.crowd) for i in scene.instances] == [(2, True), (0, False), (2, False)]
    group, person, car = (
        decode(to_rle(i.mask, scene.height, scene.width)) for i in scene.instances
    )
    assert group[10:30, 60:80].all()
    assert person[15:25, 24:34].all()
    assert car[12:30, 16:20].all()
    assert not (car & person).any()
    assert not car[11:14, 11:14].any()  # the traffic sign
    assert car[25, 13]  # a license plate covers nothing


def test_boxes_and_polygons_extend_half_a_pixel_beyond_the_corners(root):
    person = load_scenes(NAME.format("val"), root).scenes[0].instances[1]
    np.testing.assert_allclose(person.box, (24, 15, 34, 25))
    (ring,) = person.mask
    # Rounded corners: 4 segments each.
    assert len(ring) == 2 * (4 * 5 + 1)
    assert ring[:2] == ring[-2:]


def test_a_warning_says_that_scores_follow_coco(root):
    config = default_config()
    config.merge_from_list(
        [
            *("DATASETS.TRAIN", (NAME.format("train"),)),
            *("DATASETS.TEST", (NAME.format("val"),)),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 8, "MODEL.MASK_ON", True),
        ]
    )
    warnings = data_of(config, root, train=True).warnings()
    assert any("scored by COCO's rules, not by cityscapesScripts" in each for each in warnings)


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([("unicorn", square(1, 1, 5), {})], r"object 1: label is 'unicorn'"),
        ([("car", [[1, 1], [2, 2]], {})], r"object 1: polygon is \[\[1, 1\], \[2, 2\]\]"),
        ([("car", "text", {})], "object 1: polygon is 'text'"),
        ([(None, square(1, 1, 5), {})], "object 1: label is missing"),
    ],
)
def test_invalid_annotations_are_reported(root, objects, words):
    write_city(root / "cityscapes", "val", "000000_000019", objects)
    with pytest.raises(UserError, match=rf"000019_gtFine_polygons\.json: {words}"):
        load_scenes(NAME.format("val"), root)


def test_missing_folders_and_files_are_reported(root):
    with pytest.raises(UserError, match="does not have Cityscapes' layout"):
        load_scenes(NAME.format("val"), root / "cityscapes" / "gtFine")
    (root / "cityscapes/gtFine/val/aachen/aachen_000000_000019_gtFine_polygons.json").unlink()
    with pytest.raises(UserError, match=r"polygons\.json cannot be read: No such file"):
        load_scenes(NAME.format("val"), root)
    os.mkfifo(root / "cityscapes/gtFine/val/aachen/aachen_000000_000019_gtFine_polygons.json")
    with pytest.raises(UserError, match=r"polygons\.json cannot be read: not a regular file"):
        load_scenes(NAME.format("val"), root)
    with pytest.raises(UserError, match="is unknown; did you mean cityscapes_fine_instance_seg_tr"):
        load_scenes("cityscapes_fine_instance_seg_test", root)


def test_without_shapely_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    write_city(tmp_path, "val", "000000_000019", OBJECTS)
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(UserError, match="Run: pip install shapely"):
        load_scenes(NAME.format("val"), tmp_path)


def test_an_impossible_image_size_is_rejected_before_polygons_are_rasterized(root):
    for file in root.rglob("*_polygons.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"imgWidth": 250_000_000}))
    with pytest.raises(UserError, match="250000000; expected at most"):
        load_scenes(NAME.format("train"), root)
