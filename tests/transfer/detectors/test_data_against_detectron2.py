"""Whole data sets, compared with Detectron2's readers and mapper; skipped if it is not installed."""

import contextlib
import io

import numpy as np
import pytest
import torch

from msbreg.data.catalog import drawable, load_scenes, without_empty
from msbreg.data.coco import coco_scenes
from msbreg.data.run_lengths import to_rle
from tests.msbreg.data.annotated_folders import coco_content, shared, write_coco
from tests.transfer.detectors import data_by_detectron2 as by_detectron2
from transfer.detectors import detectron2_engine
from transfer.detectors.mapper import MapperSettings, training_sample

SETTINGS = MapperSettings(train_sizes=(96, 128, 160), train_longest=200)


def registered(read, *arguments):
    """Detectron2's dictionaries, without the output that pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return read(*arguments)


def voc(scenes, split):
    by_detectron2.detectron2_data()
    from detectron2.data.datasets.pascal_voc import load_voc_instances

    return load_voc_instances(str(scenes.annotations.parent), split, list(scenes.classes))


def coco(scenes):
    data = by_detectron2.detectron2_data()
    from detectron2.data.datasets.coco import load_coco_json

    name = f"{scenes.name}-{scenes.annotations}"
    images = scenes.scenes[0].file.parent
    found = registered(load_coco_json, str(scenes.annotations), str(images), name)
    assert tuple(data.MetadataCatalog.get(name).thing_classes) == scenes.classes
    return found


def assert_same_scenes(scenes, theirs, *, sized):
    assert len(scenes) == len(theirs)
    for scene, entry in zip(scenes, theirs, strict=True):
        stated = (entry["file_name"], entry["image_id"], entry["height"], entry["width"])
        assert (str(scene.file), scene.id, scene.height, scene.width) == stated
        assert len(scene.instances) == len(entry["annotations"])
        for instance, annotation in zip(scene.instances, entry["annotations"], strict=True):
            left, top, right, bottom = instance.box
            box = [left, top, right - left, bottom - top] if sized else [left, top, right, bottom]
            assert box == pytest.approx(annotation["bbox"], abs=1e-9)
            assert instance.label == annotation["category_id"]
            assert instance.crowd == bool(annotation.get("iscrowd", 0))
            if isinstance(instance.mask, tuple):
                assert [list(ring) for ring in instance.mask] == annotation["segmentation"]
            elif instance.mask is not None:
                counts = annotation["segmentation"]["counts"]
                text = counts.decode() if isinstance(counts, bytes) else counts
                assert to_rle(instance.mask, scene.height, scene.width)["counts"] == text


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_digits_are_read_as_voc(split):
    scenes = load_scenes(f"digits_voc_{split}")
    assert_same_scenes(scenes.scenes, voc(scenes, split), sized=False)


@pytest.mark.parametrize("split", ["train", "val"])
def test_digits_are_read_as_coco(split):
    scenes = load_scenes(f"digits_coco_{split}")
    assert_same_scenes(scenes.scenes, coco(scenes), sized=True)


def test_cards_are_read_as_voc():
    scenes = load_scenes(f"voc:{shared('cards-voc')}:trainval")
    assert_same_scenes(scenes.scenes, voc(scenes, "trainval"), sized=False)


def test_nuclei_are_read_as_coco():
    scenes = load_scenes("coco_2017_val", shared("nuclei-coco"))
    assert_same_scenes(scenes.scenes, coco(scenes), sized=True)


def test_the_same_images_without_annotations_are_dropped():
    scenes = load_scenes("digits_coco_train")
    theirs = coco(scenes)
    from detectron2.data.build import filter_images_with_only_crowd_annotations

    kept = filter_images_with_only_crowd_annotations(theirs)
    assert [s.id for s in without_empty(scenes).scenes] == [entry["image_id"] for entry in kept]


def assert_same_samples(scenes, theirs, every):
    sized = bool(scenes.category_ids)
    for number in range(0, len(scenes.scenes), every):
        ours = training_sample(
            scenes.scenes[number], SETTINGS, np.random.RandomState(number), sized_boxes=sized
        )
        expected = by_detectron2.mapped_entry(theirs[number], SETTINGS, number)
        assert torch.equal(ours.image, expected["image"])
        assert torch.equal(ours.boxes, expected["instances"].gt_boxes.tensor)
        assert torch.equal(ours.labels, expected["instances"].gt_classes)


def test_photographs_and_digits_are_mapped_to_the_same_samples():
    cards = load_scenes(f"voc:{shared('cards-voc')}:test")
    assert_same_samples(cards, voc(cards, "test"), 8)
    digits = load_scenes("digits_coco_val")
    assert_same_samples(digits, coco(digits), 8)


def test_whole_numbers_in_a_json_are_not_truncated():
    # Detectron2 scales integer arrays in place, which truncates the fraction.
    nuclei = load_scenes("coco_2017_val", shared("nuclei-coco"))
    entry = coco(nuclei)[0]
    cut = by_detectron2.mapped_entry(entry, SETTINGS, 0)["instances"].gt_boxes.tensor
    random = np.random.RandomState(0)
    ours = training_sample(nuclei.scenes[0], SETTINGS, random, sized_boxes=True)
    assert not torch.equal(ours.boxes, cut)
    assert (ours.boxes - cut).abs().max() <= 1
    for annotation in entry["annotations"]:
        annotation["bbox"] = [float(value) for value in annotation["bbox"]]
    kept = by_detectron2.mapped_entry(entry, SETTINGS, 0)["instances"].gt_boxes.tensor
    assert torch.equal(ours.boxes, kept)


TRIANGLE = [5.0, 4.0, 12.0, 4.5, 8.0, 10.0]
IRREGULAR = [
    {},
    {"bbox": [4.0, 3.0, 0.0, 8.0]},
    {"bbox": [4.0, 3.0, 5.0, 0.0], "segmentation": [TRIANGLE]},
    {"bbox": [4.0, 3.0, -5.0, 8.0]},
    {"bbox": [4.0, 3.0, 38.0, 8.0]},
    {"bbox": [4.0, -1.5, 8.0, 8.0]},
    {"bbox": [400.0, 300.0, 8.0, 8.0]},
    {"segmentation": [TRIANGLE, [1.0, 2.0, 3.0, 4.0]]},
    {"segmentation": [[1.0, 2.0, 3.0, 4.0]]},
]
KEPT = [0, 3, 4, 5, 7]
"""The objects above that take part in training, with Detectron2 0.6 and here."""


def test_irregular_objects_are_dropped_from_training_exactly_as_by_detectron2(tmp_path):
    content = coco_content(
        [{"category_id": 1 + i, **o} for i, o in enumerate(IRREGULAR)],
        categories=[(1 + i, f"kind{i}") for i in range(len(IRREGULAR))],
    )
    scenes = drawable(coco_scenes("irregular", *write_coco(tmp_path, content)))
    for seed in range(4):  # flipped and not
        ours = training_sample(
            scenes.scenes[0], SETTINGS, np.random.RandomState(seed), sized_boxes=True
        )
        assert ours.labels.tolist() == KEPT
        if detectron2_engine.available():
            theirs = by_detectron2.mapped_entry(coco(scenes)[0], SETTINGS, seed)["instances"]
            assert torch.equal(ours.labels, theirs.gt_classes)
            assert torch.equal(ours.boxes, theirs.gt_boxes.tensor)
