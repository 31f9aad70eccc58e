"""COCO's scores are bit for bit equal to those of pycocotools on JSON files."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from msbreg.data.coco import coco_scenes as read_coco
from msbreg.data.run_lengths import encode, to_rle
from msbreg.data.scenes import Instance, Prediction, Scene, Scenes
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import coco_content, write_coco
from tests.reference import coco_ap as slow
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict, voc_scenes
from transfer.drawing.detection_sheets import detection_sheet
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.coco_results import write_coco_results

ABSENT = "Detectron2 is not installed; pycocotools alone is the peer"


def drawn(seed, tied=False, count=25):
    scenes = coco_scenes(np.random.default_rng(seed), count)
    return scenes, predict(np.random.default_rng(seed + 100), scenes, tied, masks=box_masks)


def nothing(scenes):
    empty = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())
    return [Prediction(scene.id, *empty) for scene in scenes.scenes]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_equal_pycocotools_bit_for_bit(tmp_path, seed, kind, tied):
    scenes, predictions = drawn(seed, tied)
    assert any(o.crowd for s in scenes.scenes for o in s.instances)
    assert any(not s.instances for s in scenes.scenes)
    expected, arrays = slow.coco_ap(tmp_path, scenes, predictions, kind)
    found = coco_ap(scenes, predictions, kind)
    np.testing.assert_array_equal(list(found.numbers.values()), expected)
    theirs = arrays["precision"][..., 0, -1]
    np.testing.assert_array_equal(found.precision, np.where(theirs > -1, theirs, np.nan))
    assert found.numbers["AP"] > 5


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_crowds_and_equal_objects_match_as_in_pycocotools(tmp_path, seed, kind):
    scenes, predictions = drawn(seed, tied=True, count=12)
    rng = np.random.default_rng(seed)
    crowded = []
    for scene in scenes.scenes:
        # Two classes, sizes on the borders of COCO's ranges, copies that tie, half of them crowds.
        own = [
            dataclasses.replace(o, label=o.label % 2, area=float(rng.choice([1024, 2000, 9216])))
            for o in scene.instances
        ]
        own += [dataclasses.replace(o, crowd=bool(rng.random() < 0.5)) for o in own]
        instances = tuple(own[i] for i in rng.permutation(len(own)))
        crowded.append(dataclasses.replace(scene, instances=instances))
    scenes = dataclasses.replace(scenes, scenes=tuple(crowded))
    predictions = [dataclasses.replace(p, labels=p.labels % 2) for p in predictions]
    expected, arrays = slow.coco_ap(tmp_path, scenes, predictions, kind)
    found = coco_ap(scenes, predictions, kind)
    np.testing.assert_array_equal(list(found.numbers.values()), expected)
    theirs = arrays["precision"][..., 0, -1]
    np.testing.assert_array_equal(found.precision, np.where(theirs > -1, theirs, np.nan))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_scores_equal_detectron2s_evaluator(tmp_path, kind):
    pytest.importorskip("detectron2", reason=ABSENT)
    scenes, predictions = drawn(7)
    expected = by_detectron2(tmp_path, scenes, predictions)[kind]
    found = coco_ap(scenes, predictions, kind)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert [found.numbers[n] for n in names] == [expected[n] for n in names]
    theirs = [expected[f"AP-{name}"] for name in scenes.classes]
    # It averages thresholds and recalls at once; here recalls come first.
    np.testing.assert_allclose(found.class_ap.mean(axis=0), theirs, rtol=1e-12)


def by_detectron2(folder, scenes, predictions):
    """Scores of Detectron2's COCOEvaluator with the official pycocotools."""
    import torch

    with warnings.catch_warnings():
        # Importing it compiles a box coder with torch.jit.script, which is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        from detectron2.data import MetadataCatalog
        from detectron2.evaluation import COCOEvaluator
        from detectron2.structures import Boxes, Instances
    from msbreg.data.run_lengths import decode

    (folder / "truth.json").write_text(json.dumps(slow.truth_as_json(scenes)))
    name = f"msbreg_coco_{folder.name}"
    MetadataCatalog.get(name).set(
        json_file=str(folder / "truth.json"),
        thing_classes=list(scenes.classes),
        thing_dataset_id_to_contiguous_id={n: k for k, n in enumerate(scenes.category_ids)},
    )
    evaluator = COCOEvaluator(name, ("bbox", "segm"), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for p in predictions:
        found = Instances((200, 200))
        found.pred_boxes = Boxes(torch.from_numpy(p.boxes.copy()))
        found.scores = torch.from_numpy(p.scores.copy())
        found.pred_classes = torch.from_numpy(p.labels.copy())
        found.pred_masks = torch.from_numpy(np.array([decode(m) for m in p.masks]))
        with warnings.catch_warnings():
            # It hands tensors to np.array, which NumPy >= 2 would have know `copy`.
            warnings.simplefilter("ignore", DeprecationWarning)
            evaluator.process([{"image_id": p.scene}], [{"instances": found}])
    return evaluator.evaluate()


def test_the_ground_truth_scores_100():
    scenes, _ = drawn(3)
    perfect = []
    for scene in scenes.scenes:
        own = [o for o in scene.instances if not o.crowd]
        boxes = np.array([o.box for o in own], np.float32).reshape(-1, 4)
        labels = np.array([o.label for o in own], np.int64)
        perfect.append(Prediction(scene.id, boxes, np.ones(len(own), np.float32), labels))
    assert coco_ap(scenes, perfect).numbers["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_split_without_detections_scores_0(kind):
    scenes, _ = drawn(0)
    found = coco_ap(scenes, nothing(scenes), kind)
    assert set(found.numbers.values()) == {0.0}
    assert found.detections.tolist() == [0] * 5


def test_sizes_and_classes_without_objects_are_nan():
    box = (10.0, 10.0, 20.0, 20.0)
    scene = Scene(1, Path("1.jpg"), 100, 100, (Instance(box, 0),))
    scenes = Scenes("one", ("cat", "dog"), (scene,), category_ids=(5, 9))
    boxes, score = np.array([box], np.float32), np.array([0.5], np.float32)
    found = coco_ap(scenes, [Prediction(1, boxes, score, np.array([0]))])
    assert found.numbers["AP"] == found.numbers["APs"] == pytest.approx(100)
    assert found.summary()["APm"] is None
    assert found.absent == ("dog",)
    assert found.table()[1] == {
        "class": "dog", "objects": 0, "detections": 0, "AP": None, "AP50": None, "AP75": None
    }  # fmt: skip
    assert found.table()[0]["objects"] == found.table()[0]["detections"] == 1


def test_scores_do_not_depend_on_the_order_of_scenes_and_predictions():
    scenes, predictions = drawn(4, tied=True)
    rng = np.random.default_rng(0)
    shuffled = tuple(scenes.scenes[i] for i in rng.permutation(len(scenes.scenes)))
    again = coco_ap(dataclasses.replace(scenes, scenes=shuffled), predictions[::-1])
    assert again.numbers == coco_ap(scenes, predictions).numbers


def test_the_area_comes_from_the_annotation_then_the_mask_then_the_box():
    box, score = (0.0, 0.0, 50.0, 50.0), np.array([0.5], np.float32)
    pixels = np.zeros((1, 100, 100), bool)
    pixels[0, :20, :20] = True
    mask = encode(pixels)[0]
    for area, given, size in [(9.0e4, mask, "APl"), (None, mask, "APs"), (None, None, "APm")]:
        scene = Scene(1, Path("1"), 100, 100, (Instance(box, 0, mask=given, area=area),))
        scenes = Scenes("one", ("cat",), (scene,), category_ids=(1,))
        boxes = np.array([box], np.float32)
        numbers = coco_ap(scenes, [Prediction(1, boxes, score, np.array([0]))]).numbers
        assert [n for n in ("APs", "APm", "APl") if numbers[n] == numbers[n]] == [size]


def test_scenes_with_names_and_without_category_ids_are_scored():
    scenes = voc_scenes(np.random.default_rng(0))
    found = coco_ap(scenes, predict(np.random.default_rng(1), scenes))
    assert 5 < found.numbers["AP"] < 95


def test_nothing_is_printed(capsys):
    coco_ap(*drawn(0, count=3))
    assert capsys.readouterr().out == ""


def test_scoring_masks_requires_masks():
    scenes, predictions = drawn(0)
    bare = [dataclasses.replace(p, masks=None) for p in predictions]
    with pytest.raises(UserError, match="prediction for scene .* has no masks"):
        coco_ap(scenes, bare, "segm")
    boxes = voc_scenes(np.random.default_rng(0))
    with pytest.raises(UserError, match="an object of scene '00.*' has no mask"):
        coco_ap(boxes, predict(np.random.default_rng(1), boxes, masks=box_masks), "segm")


def test_a_ground_truth_mask_of_the_wrong_size_is_named():
    scenes, predictions = drawn(0)
    bad = Instance((0, 0, 5, 5), 0, mask={"size": [200, 200], "counts": "0"})
    first = dataclasses.replace(scenes.scenes[0], instances=(bad,))
    wrong = dataclasses.replace(scenes, scenes=(first, *scenes.scenes[1:]))
    with pytest.raises(UserError, match=r"scene 900 has a mask of size \[200, 200\]"):
        coco_ap(wrong, predictions, "segm")


def test_an_empty_split_is_rejected():
    with pytest.raises(UserError, match="0 scenes and 1 classes"):
        coco_ap(Scenes("empty", ("cat",), ()), [])


def test_unusual_annotations_score_like_in_pycocotools(tmp_path):
    """Boxes without area, with edges exchanged or outside, a two-point polygon, a crowd."""
    odd = [
        {"bbox": [4, 3, 0, 8], "area": 0},
        {"bbox": [14, 13, -5, -8], "area": 40},
        {"bbox": [30, 20, 30, 30], "area": 900},
        {"bbox": [400, 300, 8, 8], "area": 64},
        {"bbox": [5, 4, 7, 6], "area": 21, "segmentation": [[5, 4, 12, 4.5, 8, 10], [1, 2, 30, 4]]},
        {"bbox": [5, 14, 10, 10], "area": 100, "iscrowd": 1},
        {"bbox": [5, 4, 7, 6], "area": 21, "image_id": 8},
    ]
    file, images = write_coco(tmp_path, coco_content(odd))
    scenes = read_coco("odd", file, images)
    boxes = np.array(
        [[5, 4, 12, 10], [9, 5, 14, 13], [30, 20, 40, 30], [4, 3, 4, 11], [0, 0, 9, 9]]
    )
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    found = [Prediction(7, boxes.astype(np.float32), scores, np.ones(5, np.int64))]
    write_coco_results(tmp_path / "results.json", scenes, found)
    truth = COCO(str(file))
    reference = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    ours = coco_ap(scenes, found).numbers
    expected = [100 * value if value > -1 else np.nan for value in reference.stats]
    np.testing.assert_array_equal(list(ours.values()), expected)
    assert ours["AP"] > 0
    detection_sheet(scenes, found)  # can also be drawn


def test_an_object_without_a_ring_still_counts_as_an_object(tmp_path):
    polygons = [[[5, 4, 12, 4, 12, 10, 5, 10]], [[1, 2, 3, 4]]]
    content = coco_content([{"segmentation": p, "area": 42} for p in polygons])
    scenes = read_coco("odd", *write_coco(tmp_path, content))
    masks = (to_rle(scenes.scenes[0].instances[0].mask, 30, 40),)
    box = np.array([[5, 4, 12, 10]], np.float32)
    found = [Prediction(7, box, np.ones(1, np.float32), np.ones(1, np.int64), masks)]
    assert coco_ap(scenes, found, "segm").numbers["AR100"] == 50
