"""LVIS's scores equal a slow twin's, and those of the lvis package, recorded from it.

Recorded with lvis 0.5.3, in which np.float was replaced by float.
"""

import dataclasses

import numpy as np
import pytest

from msbreg.data.scenes import Federation, Instance, Prediction, Scenes
from msbreg.run.errors import UserError
from tests.reference import lvis_ap as slow
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict
from transfer.detectors.results import score, scores_of
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.lvis_ap import lvis_ap
from transfer.scoring.predictions import split_digest
from transfer.scoring.scores import DataId

RECORDED = {
    "bbox": {
        "AP": 23.747056484608176,
        "AP50": 29.54196362077912,
        "AP75": 25.219395068518313,
        "APc": 14.302709587728957,
        "APf": 31.45888633124517,
        "APl": 50.165016501650165,
        "APm": 51.061604443411376,
        "APr": 34.92392043172961,
        "APs": 13.541328742333402,
        "AR300": 38.1673644338118,
        "ARl300": 50.0,
        "ARm300": 58.08333333333333,
        "ARs300": 27.313299232736572,
    },
    "segm": {
        "AP": 14.466077489606741,
        "AP50": 29.90388197063012,
        "AP75": 12.31573316383113,
        "APc": 8.773445894517785,
        "APf": 18.474214413957984,
        "APl": 27.293729372937293,
        "APm": 28.985822689411794,
        "APr": 21.84320375543342,
        "APs": 9.080818074939362,
        "AR300": 23.04375996810207,
        "ARl300": 27.22222222222222,
        "ARm300": 33.08333333333333,
        "ARs300": 17.59462915601023,
    },
}


def federated(scenes, rng):
    """The same without crowds; a third of the other classes absent, a third of the shown incomplete."""
    kept = tuple(
        dataclasses.replace(s, instances=tuple(o for o in s.instances if not o.crowd))
        for s in scenes.scenes
    )
    labels = range(len(scenes.classes))
    shown = {s.id: {o.label for o in s.instances} for s in kept}
    chosen = {s.id: {k for k in labels if rng.random() < 1 / 3} for s in kept}
    return dataclasses.replace(
        scenes,
        scenes=kept,
        category_ids=tuple(k + 1 for k in labels),
        federation=Federation(
            ("f", "c", "r", "r", "c"),
            absent={i: frozenset(chosen[i] - shown[i]) for i in shown},
            incomplete={i: frozenset(chosen[i] & shown[i]) for i in shown},
        ),
    )


def drawn(seed, tied=False, count=16):
    rng = np.random.default_rng(seed)
    scenes = federated(coco_scenes(rng, count), rng)
    return scenes, predict(np.random.default_rng(seed + 100), scenes, tied, masks=box_masks)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(("seed", "tied"), [(0, False), (1, True)])
def test_scores_equal_the_slow_twins(seed, tied, kind):
    scenes, predictions = drawn(seed, tied)
    found = lvis_ap(scenes, predictions, kind)
    assert found.numbers == pytest.approx(slow.lvis_ap(scenes, predictions, kind), nan_ok=True)
    assert found.numbers["AP"] > 5
    assert np.isfinite([found.numbers[name] for name in ("APr", "APc", "APf")]).all()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_scores_equal_those_recorded_from_the_lvis_package(kind):
    found = lvis_ap(*drawn(2, count=40), kind).numbers
    assert found == pytest.approx(RECORDED[kind], abs=1e-9, nan_ok=True)


def one_image(detections, absent=(), incomplete=()):
    """One object of class 0 at (0, 0, 10, 10), and detections (label, score, left edge)."""
    (scene,) = coco_scenes(np.random.default_rng(0), 1).scenes
    scene = dataclasses.replace(scene, instances=(Instance((0.0, 0.0, 10.0, 10.0), 0, area=100.0),))
    federation = Federation(
        ("r", "f"), {scene.id: frozenset(absent)}, {scene.id: frozenset(incomplete)}
    )
    scenes = Scenes("tiny", ("a", "b"), (scene,), (1, 2), federation=federation)
    boxes = np.array([[x, 0, x + 10, 10] for _, _, x in detections], np.float32)
    scores = np.array([score for _, score, _ in detections], np.float32)
    labels = np.array([label for label, _, _ in detections], np.int64)
    return scenes, [Prediction(scene.id, boxes, scores, labels)]


def test_a_false_detection_of_an_incomplete_class_is_ignored():
    found = [(0, 0.9, 40.0), (0, 0.8, 0.0)]
    assert lvis_ap(*one_image(found)).numbers["AP"] == pytest.approx(50)
    assert lvis_ap(*one_image(found, incomplete=[0])).numbers["AP"] == pytest.approx(100)


def test_detections_of_a_class_that_was_not_searched_do_not_count():
    assert lvis_ap(*one_image([(1, 0.9, 0.0)])).detections.tolist() == [0, 0]
    assert lvis_ap(*one_image([(1, 0.9, 0.0)], absent=[1])).detections.tolist() == [0, 1]


def test_the_300_best_detections_of_an_image_count():
    others = [(1, 0.9, 0.0)] * 300
    assert lvis_ap(*one_image([*others, (0, 0.8, 0.0)])).numbers["AP"] == 0
    assert lvis_ap(*one_image([*others[1:], (0, 0.8, 0.0)])).numbers["AP"] == pytest.approx(100)


def test_a_federated_split_is_scored_by_lviss_rules_with_ap_by_frequency():
    scenes, predictions = drawn(3)
    scores = score(scenes, predictions)
    assert [s.metric for s in scores.values()] == ["LVIS bbox AP", "LVIS segm AP"]
    names = [s.name for s in scores_of(scores, DataId("x", ""), 1, "")]
    assert names[:6] == [f"box {n}" for n in ("AP", "AP50", "AP75", "APr", "APc", "APf")]
    assert scores["box"].numbers["AP"] != coco_ap(scenes, predictions).numbers["AP"]


def test_the_digest_of_a_split_covers_its_federation():
    scenes, _ = drawn(0)
    assert scenes.federation is not None
    changed = dataclasses.replace(scenes.federation, absent=scenes.federation.incomplete)
    assert split_digest(scenes) != split_digest(dataclasses.replace(scenes, federation=changed))


def test_a_split_that_is_not_federated_is_an_error():
    scenes, predictions = drawn(0)
    with pytest.raises(UserError, match="which classes are annotated"):
        lvis_ap(dataclasses.replace(scenes, federation=None), predictions)
