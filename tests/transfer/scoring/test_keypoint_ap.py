"""Scores of keypoints are bit for bit equal to those of pycocotools on JSON files."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import evaluate
from msbreg.data.scenes import Instance, KeypointSet, Prediction, Scene, Scenes
from msbreg.run.errors import UserError
from transfer.detectors.results import score, scores_of
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.coco_results import read_coco_results, write_coco_results
from transfer.scoring.predictions import load_predictions, save_predictions, split_digest
from transfer.scoring.scores import DataId

PERSON = KeypointSet(tuple(f"point{i}" for i in range(17)))
SIDE = 200


def drawn(seed, count=15):
    """Persons of all sizes, some crowds or without labeled keypoints; and jittered predictions of them."""
    rng = np.random.default_rng(seed)
    scenes, predictions = [], []
    for number in range(count):
        objects = [_person(rng) for _ in range(rng.integers(0, 4))]
        scenes.append(Scene(90 - number, Path(f"{number}.jpg"), SIDE, SIDE, tuple(objects)))
        found = [_found(rng, o) for o in objects for _ in range(rng.integers(0, 3))]
        found += [_found(rng, _person(rng)) for _ in range(rng.integers(0, 2))]
        boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
        scores = np.sort(rng.random(len(found)).astype(np.float32))[::-1].copy()
        points = np.array([p for _, p in found], np.float32).reshape(-1, 17, 3)
        labels = np.zeros(len(found), np.int64)
        predictions.append(Prediction(90 - number, boxes, scores, labels, keypoints=points))
    made = Scenes("drawn", ("person",), tuple(scenes), category_ids=(1,), keypoints=PERSON)
    return made, predictions


def _person(rng):
    corner, sides = rng.integers(0, 50, 2), rng.choice([20, 40, 140]) + rng.integers(0, 9, 2)
    box = tuple(map(float, (*corner, *(corner + sides))))
    visibility = rng.integers(0, 3, (17, 1)) * (rng.random() > 0.2)
    points = (corner + rng.integers(0, sides, (17, 2)) + 0.5) * (visibility > 0)
    points[visibility[:, 0] == 0] = 0.5
    flat = tuple(np.concatenate([points, visibility], 1).ravel().astype(float).tolist())
    area = float(sides.prod()) * 0.7
    return Instance(box, 0, area=area, crowd=bool(rng.random() < 0.25), keypoints=flat)


def _found(rng, person):
    points = np.array(person.keypoints).reshape(17, 3)
    points[:, :2] += rng.choice([0.3, 2, 10]) * rng.standard_normal((17, 2))
    points[:, 2] = rng.random(17)
    return np.array(person.box) + rng.standard_normal(4), points


def by_pycocotools(folder, scenes, predictions):
    """Its numbers for the two JSON files; boxes are in the results, so that they are the sizes."""
    annotations = []
    for scene in scenes.scenes:
        for o in scene.instances:
            points = np.array(o.keypoints).reshape(-1, 3) - [0.5, 0.5, 0]
            x0, y0, x1, y1 = o.box
            annotations.append(
                {"id": len(annotations) + 1, "image_id": scene.id, "category_id": 1}
                | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": o.area, "iscrowd": int(o.crowd)}
                | {"keypoints": points.ravel().tolist()}
                | {"num_keypoints": int((points[:, 2] > 0).sum())}
            )
    images = [{"id": s.id, "height": SIDE, "width": SIDE} for s in scenes.scenes]
    categories = [{"id": 1, "name": "person"}]
    truth = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth))
    write_coco_results(folder / "results.json", scenes, predictions)
    return evaluate(folder / "truth.json", folder / "results.json", "keypoints")


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_pycocotools_bit_for_bit(tmp_path, seed):
    scenes, predictions = drawn(seed)
    assert any(o.crowd for s in scenes.scenes for o in s.instances)
    expected, arrays = by_pycocotools(tmp_path, scenes, predictions)
    found = coco_ap(scenes, predictions, "keypoints")
    np.testing.assert_array_equal(list(found.numbers.values()), expected)
    theirs = arrays["precision"][..., 0, -1]
    np.testing.assert_array_equal(found.precision, np.where(theirs > -1, theirs, np.nan))
    assert 5 < found.numbers["AP"] < 95


def test_given_sigmas_replace_those_of_persons():
    scenes, predictions = drawn(0)
    wide = dataclasses.replace(scenes, keypoints=dataclasses.replace(PERSON, sigmas=(0.5,) * 17))
    one, other = (coco_ap(s, predictions, "keypoints").numbers["AP"] for s in (scenes, wide))
    assert other > one + 5


def test_a_detector_with_keypoints_has_scores_of_boxes_and_keypoints():
    scores = score(*drawn(0))
    assert {kind: s.metric for kind, s in scores.items()} == {
        "box": "COCO bbox AP",
        "keypoint": "COCO keypoints AP",
    }
    names = [s.name for s in scores_of(scores, DataId("x", ""), 1, "")]
    assert names == [f"{kind} {n}" for kind in scores for n in ("AP", "AP50", "AP75")]


def test_objects_or_predictions_without_keypoints_are_errors():
    scenes, predictions = drawn(0)
    bare = [dataclasses.replace(p, keypoints=None) for p in predictions]
    with pytest.raises(UserError, match="prediction for scene .* has no keypoints"):
        coco_ap(scenes, bare, "keypoints")
    first = next(s for s in scenes.scenes if s.instances)
    objects = tuple(dataclasses.replace(o, keypoints=None) for o in first.instances)
    changed = dataclasses.replace(scenes, scenes=(dataclasses.replace(first, instances=objects),))
    own = [p for p in predictions if p.scene == first.id]
    with pytest.raises(UserError, match="object of scene .* has no keypoints"):
        coco_ap(changed, own, "keypoints")


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_predictions_are_saved_with_their_keypoints(tmp_path):
    scenes, predictions = drawn(0)
    save_predictions(tmp_path / "p.npz", scenes, predictions)
    assert_same(load_predictions(tmp_path / "p.npz").predictions, predictions)


def test_cocos_results_have_keypoints(tmp_path):
    scenes, predictions = drawn(0)
    write_coco_results(tmp_path / "r.json", scenes, predictions)
    found = read_coco_results(tmp_path / "r.json", scenes)
    scores = [coco_ap(scenes, p, "keypoints").numbers for p in (found, predictions)]
    # In float32 the half pixel can be lost: places move in the seventh digit.
    assert scores[0] == pytest.approx(scores[1], abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("points", [None, [1.0, 2.0], ["a"] * 51])
def test_results_with_other_keypoints_are_errors(tmp_path, points):
    scenes, predictions = drawn(0)
    write_coco_results(tmp_path / "r.json", scenes, predictions)
    entries = json.loads((tmp_path / "r.json").read_text())
    entries[3]["keypoints"] = points
    (tmp_path / "r.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="detection 4 of .* expected 51 numbers"):
        read_coco_results(tmp_path / "r.json", scenes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, :, :2], "keypoints of shape"),
        (lambda p: p * np.nan, "keypoints that are not"),
    ],
)
def test_malformed_keypoints_are_not_saved(tmp_path, change, message):
    scenes, predictions = drawn(0)
    wrong = [dataclasses.replace(p, keypoints=change(p.keypoints)) for p in predictions]
    with pytest.raises(UserError, match=message):
        save_predictions(tmp_path / "p.npz", scenes, wrong)


def test_the_digest_of_a_split_covers_its_keypoints():
    scenes, _ = drawn(0)
    index = next(i for i, s in enumerate(scenes.scenes) if s.instances)
    first = scenes.scenes[index].instances[0]
    moved = dataclasses.replace(
        first, keypoints=(*first.keypoints[:-1], 1.0 - first.keypoints[-1] / 2)
    )
    scene = dataclasses.replace(scenes.scenes[index], instances=(moved,))
    assert split_digest(dataclasses.replace(scenes, scenes=(scene,))) != split_digest(
        dataclasses.replace(scenes, scenes=(dataclasses.replace(scene, instances=(first,)),))
    )
