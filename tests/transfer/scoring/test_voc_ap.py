"""VOC's average precision equals Detectron2's bit for bit and its slow twin, and follows its rules."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from msbreg.data.scenes import Instance, Prediction, Scene, Scenes
from msbreg.run.errors import UserError
from tests.reference import voc_ap as slow
from tests.transfer.scoring import by_detectron2
from tests.transfer.scoring.drawn import predict, voc_scenes
from transfer.scoring.voc_ap import VocRules, voc_ap

# Sums of a few hundred float64 terms below 100, in another order.
ROUNDING = 1e-10
ABSENT = "Detectron2 is not installed; its frozen numbers are compared instead"


def one_scene(objects, boxes, scores=None, classes=("cat",)):
    """A scene of cats with detections; boxes are 0-based with exclusive edges."""
    scene = Scene("a", Path("a.jpg"), 100, 100, tuple(objects))
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else np.array(scores)
    labels = np.zeros(len(boxes), dtype=np.int64)
    prediction = Prediction("a", boxes, scores.astype(np.float32), labels)
    return Scenes("one", classes, (scene,)), [prediction]


def ap50(scenes, predictions, **rules):
    return voc_ap(scenes, predictions, VocRules("area", **rules)).numbers["AP50"]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_voc_ap_equals_its_slow_twin(seed, year, tied):
    rng = np.random.default_rng(seed)
    scenes = voc_scenes(rng, year=year)
    predictions = predict(rng, scenes, tied)
    metric = "11-point" if year == 2007 else "area"
    found = voc_ap(scenes, predictions)
    for k in range(len(scenes.classes)):
        for t in (0, 5, 9):
            threshold = found.thresholds[t]
            expected = slow.class_ap(scenes, predictions, k, threshold, metric)
            np.testing.assert_allclose(found.class_ap[t, k], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_voc_ap_equals_detectron2_bit_for_bit(tmp_path, seed, year, tied):
    pytest.importorskip("detectron2", reason=ABSENT)
    rng = np.random.default_rng(seed)
    scenes = voc_scenes(rng, 60, year)
    predictions = predict(rng, scenes, tied)
    numbers, per_class = by_detectron2.evaluate(tmp_path / "voc", scenes, predictions)
    found = voc_ap(scenes, predictions)
    np.testing.assert_array_equal(found.class_ap, per_class)  # NaN equals NaN here
    np.testing.assert_array_equal(list(found.numbers.values()), list(numbers.values()))
    assert list(found.numbers) == list(numbers)


def test_voc_ap_equals_detectron2_without_detections(tmp_path):
    pytest.importorskip("detectron2", reason=ABSENT)
    scenes = voc_scenes(np.random.default_rng(0))
    nothing = [
        Prediction(s.id, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
        for s in scenes.scenes
    ]
    numbers, _ = by_detectron2.evaluate(tmp_path / "voc", scenes, nothing)
    assert voc_ap(scenes, nothing).numbers == numbers == {"AP": 0, "AP50": 0, "AP75": 0}


def test_voc_ap_equals_numbers_recorded_from_detectron2_bit_for_bit():
    for scenes, predictions, numbers, per_class in by_detectron2.read_frozen():
        found = voc_ap(scenes, predictions)
        assert found.numbers == numbers
        np.testing.assert_array_equal(found.class_ap, per_class)
        assert 5 < found.numbers["AP"] < 95


@pytest.mark.parametrize("seed", range(20))
def test_rounding_equals_printing_and_parsing(seed):
    rng = np.random.default_rng(seed)
    # Includes halves of the last decimal: printing rounds the exact number, halves to even.
    values = np.concatenate([rng.uniform(0, 1, 200), (rng.integers(0, 2000, 50) + 0.5) / 16])
    values = values.astype(np.float32).astype(np.float64)
    thousandths = [float(f"{v:.3f}") for v in values]
    tenths = [float(f"{v * 64:.1f}") for v in values]
    np.testing.assert_array_equal(np.rint(values * 1000) / 1000, thousandths)
    np.testing.assert_array_equal(np.rint(values * 64 * 10) / 10, tenths)


def test_the_ground_truth_scores_100():
    scenes = voc_scenes(np.random.default_rng(3), year=2012)
    perfect = [
        Prediction(
            s.id,
            np.array([o.box for o in s.instances], np.float32).reshape(-1, 4),
            np.ones(len(s.instances), np.float32),
            np.array([o.label for o in s.instances], np.int64),
        )
        for s in scenes.scenes
    ]
    numbers = voc_ap(scenes, perfect, VocRules("area", absent="ignored")).numbers
    assert numbers == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})


def test_a_second_detection_of_an_object_is_a_miss():
    cat, other = Instance((0, 0, 10, 10), 0), Instance((50, 50, 60, 60), 0)
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60)]
    assert ap50(*one_scene([cat, other], boxes)) == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_a_detection_only_matches_its_nearest_object():
    # The first object is nearest to both boxes; the second is unmatched, at IoU 0.82.
    first, second = Instance((0, 0, 10, 10), 0), Instance((0, 0, 10, 9), 0)
    boxes = [(0, 0, 10, 10), (0, 0, 10, 10)]
    assert ap50(*one_scene([first, second], boxes)) == pytest.approx(50)


def test_difficult_objects_are_neither_hits_nor_misses_unless_counted():
    objects = [Instance((0, 0, 10, 10), 0, difficult=True), Instance((50, 50, 60, 60), 0)]
    boxes = [(0, 0, 10, 10), (50, 50, 60, 60)]
    assert ap50(*one_scene(objects, boxes)) == 100
    assert ap50(*one_scene(objects, boxes[:1])) == 0
    assert ap50(*one_scene(objects, boxes[:1]), difficult="counted") == 50


def test_an_iou_equal_to_the_threshold_is_a_miss_unless_reached_is_set():
    half = one_scene([Instance((0, 0, 10, 10), 0)], [(0, 0, 10, 5)])
    assert ap50(*half) == 0
    assert ap50(*half, reached=True) == 100


def test_without_the_pixel_rule_sides_are_one_pixel_shorter():
    # 3 x 3 on 3 x 2 pixels: IoU 2/3, or 2 x 1 on 2 x 2: 1/2.
    boxes = one_scene([Instance((0, 0, 3, 3), 0)], [(0, 0, 3, 2)])
    assert ap50(*boxes) == 100
    assert ap50(*boxes, pixel_rule=False) == 0
    pixel = one_scene([Instance((0, 0, 1, 1), 0)], [(0, 0, 1, 1)])
    assert ap50(*pixel, pixel_rule=False) == 0  # no area, no overlap


def test_without_rounding_scores_rank_by_all_digits():
    boxes = [(50, 50, 60, 60), (0, 0, 10, 10)]  # a miss, then the hit
    scored = one_scene([Instance((0, 0, 10, 10), 0)], boxes, [0.70001, 0.70002])
    assert ap50(*scored, rounding=False) == 100
    assert ap50(*scored, ties="stable") == 50


def test_stable_ties_do_not_depend_on_the_sort():
    rng = np.random.default_rng(5)
    scenes = voc_scenes(rng, 100, 2012)
    predictions = predict(rng, scenes, tied=True)
    rules = VocRules("area", ties="stable", rounding=False)
    # Make equal scores distinct in stable order, by less than any difference of scores.
    nudged, step = [], 0
    for p in predictions:
        lower = step + np.arange(len(p.scores))
        step += len(p.scores)
        scores = (p.scores - 1e-5 * lower).astype(np.float32)
        nudged.append(dataclasses.replace(p, scores=scores))
    assert step < 1000
    expected = voc_ap(scenes, nudged, rules).class_ap
    np.testing.assert_array_equal(voc_ap(scenes, predictions, rules).class_ap, expected)


def test_scores_do_not_depend_on_the_order_of_the_predictions():
    rng = np.random.default_rng(6)
    scenes = voc_scenes(rng)
    predictions = predict(rng, scenes, tied=True)
    expected = voc_ap(scenes, predictions)
    again = voc_ap(scenes, [predictions[i] for i in rng.permutation(len(predictions))])
    np.testing.assert_array_equal(again.class_ap, expected.class_ap)


def test_a_class_without_objects_can_be_excluded_from_the_mean():
    rng = np.random.default_rng(7)
    scenes = voc_scenes(rng, year=2012)
    predictions = predict(rng, scenes)
    scored = voc_ap(scenes, predictions)
    assert scored.absent == ("unseen",)
    assert np.isnan(scored.numbers["AP"])
    assert scored.summary() == {"AP": None, "AP50": None, "AP75": None}
    ignored = voc_ap(scenes, predictions, VocRules("area", absent="ignored"))
    assert ignored.numbers["AP50"] == pytest.approx(scored.class_ap[0, [0, 1, 2, 4]].mean())
    assert ignored.table()[3]["AP"] is None
    own = voc_ap(dataclasses.replace(scenes, year=None), predictions)
    assert own.numbers == ignored.numbers


def test_the_curve_is_the_interpolated_precision():
    cat, other = Instance((0, 0, 10, 10), 0), Instance((50, 50, 60, 60), 0)
    boxes = [(30, 30, 40, 40), (0, 0, 10, 10), (50, 50, 60, 60)]  # miss, hit, hit
    found = voc_ap(*one_scene([cat, other], boxes), VocRules("area"))
    np.testing.assert_allclose(found.precision[0, :, 0], 2 / 3)
    found = voc_ap(*one_scene([cat, other], boxes[1:2]), VocRules("area"))
    np.testing.assert_array_equal(found.precision[0, :, 0], np.repeat([1.0, 0.0], [51, 50]))


def test_the_table_counts_objects_and_detections():
    objects = [Instance((0, 0, 10, 10), 0, difficult=True), Instance((50, 50, 60, 60), 0)]
    found = voc_ap(*one_scene(objects, [(50, 50, 60, 60)] * 3), VocRules("area"))
    expected = {"class": "cat", "objects": 1, "detections": 3, "AP": 100, "AP50": 100, "AP75": 100}
    assert found.table() == [expected]


def test_2007_uses_eleven_points_and_other_years_the_area():
    assert VocRules.of_year(2007).metric == "11-point"
    assert {VocRules.of_year(year).metric for year in (2012, 2010, None)} == {"area"}


def test_an_empty_split_is_rejected():
    with pytest.raises(UserError, match="0 scenes and 1 classes"):
        voc_ap(Scenes("empty", ("cat",), ()), [])
