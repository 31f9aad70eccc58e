"""Hits and misses equal their slow twin, and the most confident ones are picked."""

import numpy as np
import pytest

from tests.reference import verdicts as slow
from tests.transfer.scoring.drawn import coco_scenes, predict, voc_scenes
from transfer.drawing.detection_sheets import best_and_worst, judge


@pytest.fixture(params=["voc", "coco"])
def drawn(request):
    rng = np.random.default_rng(0)
    scenes = voc_scenes(rng, 60) if request.param == "voc" else coco_scenes(rng, 40)
    return scenes, predict(rng, scenes)


def test_hits_and_misses_equal_their_slow_twin(drawn):
    scenes, predictions = drawn
    hit, miss, overlap = judge(scenes, predictions)
    pairs = zip(scenes.scenes, predictions, strict=True)
    expected = [verdict for pair in pairs for verdict in slow.judged(*pair)]
    assert [v == "hit" for v, _ in expected] == hit.tolist()
    assert [v == "miss" for v, _ in expected] == miss.tolist()
    highest = [-np.inf if value is None else value for _, value in expected]
    np.testing.assert_allclose(overlap, highest, rtol=1e-5)  # boxes pass through float32
    assert {v for v, _ in expected} == {"hit", "miss", "neither"}


def test_the_most_confident_hits_and_misses_are_picked_one_per_scene(drawn):
    scenes, predictions = drawn
    for picks, kind in zip(best_and_worst(scenes, predictions, 5), ("hit", "miss"), strict=True):
        ranked = {}
        for place, (scene, prediction) in enumerate(zip(scenes.scenes, predictions, strict=True)):
            verdicts = slow.judged(scene, prediction)
            own = [i for i, (verdict, _) in enumerate(verdicts) if verdict == kind]
            if own:
                ranked[place] = max(own, key=lambda i: prediction.scores[i])
        confident = sorted(ranked, key=lambda place: -predictions[place].scores[ranked[place]])
        assert [(p.scene, p.index) for p in picks] == [(s, ranked[s]) for s in confident[:5]]


def test_nothing_is_picked_without_detections(drawn):
    scenes, predictions = drawn
    nothing = [type(p)(p.scene, p.boxes[:0], p.scores[:0], p.labels[:0]) for p in predictions]
    assert best_and_worst(scenes, nothing, 3) == ([], [])
