"""The mapper equals Detectron2's: compared with it if it is installed, and with recorded hashes."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as codec

from msbreg.data.scenes import Instance, Scene
from msbreg.data.training_order import random_state
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import noise
from tests.transfer.detectors import data_by_detectron2 as by_detectron2
from transfer.detectors.mapper import (
    Geometry,
    MapperSettings,
    mapper_settings,
    resized,
    testing_sample,
    training_sample,
)

SMALL = MapperSettings(train_sizes=(48,), test_size=48, train_longest=90, test_longest=90)
testing_sample.__test__ = False


def draw_box(rng, height, width):
    left, top = rng.uniform(-1, [width - 6, height - 6])
    right, bottom = rng.uniform([left + 1, top + 1], [width + 1, height + 1])
    return tuple(round(float(value), 2) for value in (left, top, right, bottom))


def draw_polygons(rng, height, width):
    rings = rng.uniform(0, [width, height], (rng.integers(1, 3), rng.integers(3, 8), 2))
    return tuple(tuple(np.round(ring, 2).ravel().tolist()) for ring in rings)


def draw_runs(rng, height, width):
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[2 : rng.integers(4, height), 3 : rng.integers(5, width)] = 1
    run_lengths = codec.encode(mask)
    return {"size": [height, width], "counts": run_lengths["counts"].decode()}


def draw_scene(folder, rng, number, *, masks="polygon"):
    height, width = (int(side) for side in rng.integers(20, 90, 2))
    file = folder / f"{number}.png"
    noise(height, width, number).save(file)
    instances = []
    for _ in range(int(rng.integers(0, 5))):
        mask = draw_polygons(rng, height, width)
        if masks == "bitmask" and rng.random() < 0.5:
            mask = draw_runs(rng, height, width)
        box, label = draw_box(rng, height, width), int(rng.integers(0, 20))
        instances.append(Instance(box, label, mask, crowd=rng.random() < 0.2))
    if number % 5 == 0:  # a box outside the image is clipped to nothing
        instances.append(Instance((-1.0, 2.0, 0.0, 9.0), 3, draw_polygons(rng, height, width)))
    return Scene(number, file, height, width, tuple(instances))


def draw_settings(rng, masks):
    is_range = rng.random() < 0.3
    sizes = sorted(
        int(size) for size in rng.integers(16, 120, 2 if is_range else rng.integers(1, 5))
    )
    if rng.random() < 0.1:
        sizes = [0, 0]
    return MapperSettings(
        channels=str(rng.choice(["RGB", "BGR"])),
        train_sizes=tuple(sizes),
        train_longest=int(rng.integers(60, 200)),
        sampling="range" if is_range else "choice",
        flip=str(rng.choice(["horizontal", "horizontal", "vertical", "none"])),
        test_size=int(rng.integers(16, 120)),
        test_longest=int(rng.integers(60, 200)),
        masks=masks,
    )


def drawn(folder, number, masks="polygon"):
    """A scene and settings, determined by the number."""
    rng = np.random.default_rng([number, {"polygon": 0, "bitmask": 1}[masks]])
    return draw_scene(folder, rng, number, masks=masks), draw_settings(rng, masks)


def ours_of(scene, settings, number):
    """Whether boxes have sizes, as in COCO (even numbers), or corners, as in VOC (odd numbers)."""
    random = np.random.RandomState(number)
    return training_sample(scene, settings, random, sized_boxes=number % 2 == 0)


def digest(sample):
    """Hash of a sample: sixteen hexadecimal digits."""
    parts = [sample.image.numpy(), sample.boxes.numpy(), sample.labels.numpy()]
    parts += [ring for rings in sample.polygons or () for ring in rings]
    parts += [] if sample.bitmasks is None else [sample.bitmasks.numpy()]
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize("number", range(60))
def test_training_samples_are_detectron2s(tmp_path, number):
    scene, settings = drawn(tmp_path, number)
    theirs = by_detectron2.mapped(scene, settings, number, sized_boxes=number % 2 == 0)
    ours = ours_of(scene, settings, number)
    assert torch.equal(ours.image, theirs["image"])
    assert (ours.height, ours.width) == (theirs["height"], theirs["width"])
    instances = theirs["instances"]
    assert torch.equal(ours.boxes, instances.gt_boxes.tensor)
    assert torch.equal(ours.labels, instances.gt_classes)
    rings = instances.gt_masks.polygons if instances.has("gt_masks") else []
    assert [len(polygon) for polygon in ours.polygons] == [len(polygon) for polygon in rings]
    for ours_rings, their_rings in zip(ours.polygons, rings, strict=True):
        for ring, expected in zip(ours_rings, their_rings, strict=True):
            assert ring.dtype == expected.dtype
            np.testing.assert_array_equal(ring, expected)


@pytest.mark.parametrize("number", range(20))
def test_bitmasks_are_detectron2s(tmp_path, number):
    scene, settings = drawn(tmp_path, number, "bitmask")
    theirs = by_detectron2.mapped(scene, settings, number, sized_boxes=number % 2 == 0)["instances"]
    ours = ours_of(scene, settings, number)
    assert torch.equal(ours.boxes, theirs.gt_boxes.tensor)
    if theirs.has("gt_masks"):
        assert torch.equal(ours.bitmasks, theirs.gt_masks.tensor)
    assert len(ours.bitmasks) == len(ours.boxes)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_rotation_and_testing_samples_are_detectron2s(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(30, 50).save(tmp_path / "a.jpg", exif=exif)
    height, width = (30, 50) if orientation < 5 else (50, 30)
    scene = Scene("a", tmp_path / "a.jpg", height, width, ())
    theirs = by_detectron2.mapped(scene, SMALL, 0, sized_boxes=False, training=False)
    assert torch.equal(testing_sample(scene, SMALL).image, theirs["image"])


# Hashes of samples that were equal to those of Detectron2 0.6 (02b5c4e2).
FROZEN = {
    ("polygon", 1): "21ddb14e5531318b",
    ("polygon", 4): "4268fbda01f04f0b",
    ("polygon", 9): "afc0f974c2feac27",
    ("polygon", 11): "df6c392073eca612",
    ("polygon", 14): "65a66b1f6b57d216",
    ("polygon", 16): "d11b5d8ec96c48f5",
    ("polygon", 23): "51da271f1438fdb7",
    ("polygon", 32): "296717a7676bb216",
    ("polygon", 37): "e3414f355d73a410",
    ("polygon", 42): "155a0586591c0020",
    ("polygon", 44): "87258a93fa341084",
    ("polygon", 49): "73eb9b9d6a6b4531",
    ("polygon", 51): "6fe7b85b4af95d50",
    ("polygon", 57): "1232d3aa32f39343",
    ("bitmask", 0): "aa20682230b4ca3d",
    ("bitmask", 3): "e50c9f88b1e01844",
    ("bitmask", 5): "5cdca92819f15ac6",
    ("bitmask", 6): "fa871d3fdba11c98",
    ("bitmask", 10): "b28d527f216a3ca7",
    ("bitmask", 13): "be8e28b66c81354b",
    ("bitmask", 17): "280f6cf963dfd1aa",
}


@pytest.mark.parametrize("key", FROZEN, ids=str)
def test_samples_equal_those_recorded_from_detectron2(tmp_path, key):
    masks, number = key
    scene, settings = drawn(tmp_path, number, masks)
    assert digest(ours_of(scene, settings, number)) == FROZEN[key]


@pytest.mark.parametrize(
    ("old", "shortest", "longest", "new"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((375, 500), 800, 1333, (800, 1067)),
        ((500, 375), 480, 1333, (640, 480)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((333, 500), 600, 1000, (600, 901)),  # one more than requested: Detectron2 also rounds up
        ((100, 100), 65, 1333, (65, 65)),
    ],
)
def test_sizes_follow_the_shortest_side_and_stop_at_the_longest(old, shortest, longest, new):
    assert resized(*old, shortest, longest) == new


def upright(tmp_path, instances=()):
    noise(30, 40).save(tmp_path / "a.png")
    return Scene("a", tmp_path / "a.png", 30, 40, tuple(instances))


def test_a_flip_mirrors_pixels_boxes_and_polygons(tmp_path):
    scene = upright(tmp_path, [Instance((2.0, 3.0, 12.0, 20.0), 0, ((2.0, 3, 12, 3, 12, 20),))])
    settings = MapperSettings(train_sizes=(30,), train_longest=40, masks="polygon")
    samples = [training_sample(scene, settings, random_state(0, n)) for n in range(12)]
    plain = next(s for s in samples if s.boxes[0, 0] == 2)
    flipped = next(s for s in samples if s.boxes[0, 0] != 2)
    assert flipped.boxes.tolist() == [[28, 3, 38, 20]]
    assert flipped.polygons[0][0].tolist() == [38, 3, 28, 3, 28, 20]
    assert torch.equal(flipped.image, plain.image.flip(2))


def test_channels_have_the_configured_order(tmp_path):
    scene = upright(tmp_path)
    rgb, bgr = (testing_sample(scene, replace(SMALL, channels=c)) for c in ("RGB", "BGR"))
    assert torch.equal(rgb.image, bgr.image.flip(0))
    assert rgb.image.dtype == torch.uint8
    assert rgb.image.is_contiguous()
    assert bgr.image.is_contiguous()


def test_crowds_and_boxes_without_area_are_dropped(tmp_path):
    boxes = [(2.0, 3.0, 12.0, 20.0), (-1.0, 3.0, 0.0, 20.0), (5.0, 5.0, 9.0, 9.0)]
    instances = [Instance(box, n, crowd=n == 2) for n, box in enumerate(boxes)]
    sample = training_sample(upright(tmp_path, instances), SMALL, random_state(0, 0))
    assert sample.labels.tolist() == [0]
    assert sample.polygons is None
    assert sample.bitmasks is None


@pytest.mark.parametrize("masks", [None, "polygon", "bitmask"])
def test_a_scene_without_objects_has_empty_targets(tmp_path, masks):
    sample = training_sample(upright(tmp_path), replace(SMALL, masks=masks), random_state(0, 0))
    assert sample.boxes.shape == (0, 4)
    assert sample.boxes.dtype == torch.float32
    assert sample.labels.shape == (0,)
    assert sample.polygons == (() if masks == "polygon" else None)
    if masks == "bitmask":
        assert sample.bitmasks.shape == (0, *sample.image.shape[1:])


def test_an_empty_bitmask_is_dropped(tmp_path):
    line = Instance((2.0, 3.0, 12.0, 20.0), 0, ((5.0, 5, 5.01, 5, 5, 5.01),))
    sample = training_sample(
        upright(tmp_path, [line]), replace(SMALL, masks="bitmask"), random_state(0, 0)
    )
    assert len(sample.boxes) == len(sample.bitmasks) == 0


def test_draws_are_functions_of_seed_and_position(tmp_path):
    scene = upright(tmp_path)
    settings = replace(SMALL, train_sizes=tuple(range(20, 90)))
    first = [training_sample(scene, settings, random_state(5, n)).image for n in range(8)]
    again = [training_sample(scene, settings, random_state(5, n)).image for n in range(8)]
    other = [training_sample(scene, settings, random_state(6, n)).image for n in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [a.shape for a in first] != [b.shape for b in other]
    assert len({a.shape for a in first}) > 4


def test_a_testing_sample_has_no_targets(tmp_path):
    scene = upright(tmp_path, [Instance((2.0, 3.0, 12.0, 20.0), 0)])
    sample = testing_sample(scene, SMALL)
    assert (sample.boxes, sample.labels, sample.polygons) == (None, None, None)
    assert sample.image.shape == (3, 48, 64)
    assert (sample.height, sample.width) == (30, 40)


def test_gray_and_palette_images_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "1"):
        noise(30, 40).convert(mode).save(tmp_path / "a.png")
        assert testing_sample(Scene("a", tmp_path / "a.png", 30, 40, ()), SMALL).image.shape[0] == 3


@pytest.mark.parametrize("cut", [0, 4, 200])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, cut):
    scene = upright(tmp_path)
    scene.file.write_bytes(scene.file.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.png cannot be decoded: "):
        training_sample(scene, SMALL, random_state(0, 0))


def test_a_missing_image_is_named(tmp_path):
    scene = upright(tmp_path)
    scene.file.unlink()
    with pytest.raises(UserError, match=r"a\.png cannot be decoded: No such file"):
        testing_sample(scene, SMALL)


def test_an_image_whose_size_differs_from_the_annotation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"40 x 30 pixels .* gives 41 x 30"):
        testing_sample(replace(upright(tmp_path), width=41), SMALL)


@pytest.mark.parametrize(
    ("masks", "mask", "words"),
    [
        ("polygon", None, "has an object without a mask"),
        ("bitmask", None, "has an object without a mask"),
        ("polygon", {"size": [30, 40], "counts": [1200]}, "set INPUT.MASK_FORMAT to bitmask"),
    ],
)
def test_masks_in_another_format_are_named(tmp_path, masks, mask, words):
    scene = upright(tmp_path, [Instance((2.0, 3.0, 12.0, 20.0), 0, mask)])
    with pytest.raises(UserError, match=words):
        training_sample(scene, replace(SMALL, masks=masks), random_state(0, 0))


def config(**changes):
    given = {
        "FORMAT": "BGR",
        "MIN_SIZE_TRAIN": (640, 800),
        "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "RANDOM_FLIP": "horizontal",
        "MIN_SIZE_TEST": 800,
        "MAX_SIZE_TEST": 1333,
        "MASK_FORMAT": "polygon",
        "CROP": SimpleNamespace(ENABLED=False),
    }
    parts = {name: changes.pop(name, False) for name in ("MASK_ON", "KEYPOINT_ON")}
    assert changes.keys() <= given.keys()
    model = SimpleNamespace(**parts)
    return SimpleNamespace(INPUT=SimpleNamespace(**(given | changes)), MODEL=model)


def test_settings_are_read_from_detectron2s_keys():
    assert mapper_settings(config(MASK_ON=True)) == MapperSettings(
        channels="BGR", train_sizes=(640, 800), masks="polygon"
    )
    assert mapper_settings(config()).masks is None
    assert not mapper_settings(config()).keypoints
    assert mapper_settings(config(KEYPOINT_ON=True)).keypoints
    assert mapper_settings(config(MIN_SIZE_TRAIN=600)).train_sizes == (600, 600)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FORMAT": "L"}, "INPUT.FORMAT is 'L'; expected RGB or BGR"),
        ({"RANDOM_FLIP": "both"}, "INPUT.RANDOM_FLIP is 'both'"),
        ({"MASK_FORMAT": "rle"}, "INPUT.MASK_FORMAT is 'rle'"),
        ({"MIN_SIZE_TRAIN_SAMPLING": "all"}, "MIN_SIZE_TRAIN_SAMPLING is 'all'"),
        ({"CROP": SimpleNamespace(ENABLED=True)}, "INPUT.CROP.ENABLED is True"),
        ({"MIN_SIZE_TRAIN": ()}, "INPUT's sizes are"),
        ({"MIN_SIZE_TRAIN": (480.5,)}, "expected integers of 0 or more"),
        ({"MIN_SIZE_TEST": -1}, "expected integers of 0 or more"),
        ({"MAX_SIZE_TEST": 0}, "MAX_SIZE_TEST is 0"),
        (
            {"MIN_SIZE_TRAIN": (1, 2, 3), "MIN_SIZE_TRAIN_SAMPLING": "range"},
            "expected .smallest, la",
        ),
        (
            {"MIN_SIZE_TRAIN": (5, 2), "MIN_SIZE_TRAIN_SAMPLING": "range"},
            "expected .smallest, larg",
        ),
    ],
)
def test_unsupported_settings_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        mapper_settings(config(**changes))


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_swapped_box_edges_are_sorted_like_fvcore_does(flip):
    exchanged = np.array([[30.0, 20.0, 10.0, 5.0]])
    geometry = Geometry((40, 50), (80, 100), flip)
    np.testing.assert_array_equal(
        geometry.boxes(exchanged), geometry.boxes(exchanged[:, [2, 3, 0, 1]])
    )
