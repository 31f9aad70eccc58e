"""Scores of weighted images equal those of test sets in which images are written down several times."""

import dataclasses

import numpy as np
import pytest

from msbreg.data.scenes import Federation
from tests.reference import resampled as slow
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict, voc_scenes
from transfer.detectors.results import scores_of
from transfer.frozen.svm_solver import class_average_precisions
from transfer.scoring.classification import (
    eleven_point_average_precision,
    mean_class_accuracy,
    top_k_hits,
)
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.lvis_ap import lvis_ap
from transfer.scoring.scores import DataId, Score
from transfer.scoring.voc_ap import VocRules, voc_ap
from transfer.verdicts.outcome_kinds import (
    group_outcomes,
    mean_iou_outcomes,
    mean_outcomes,
    ranking_outcomes,
    ratio_outcomes,
)
from transfer.verdicts.weighted_scores import (
    recorded_value,
    variance_of_one_unit,
    weighted_score,
)

SCORE = Score("score", 0.0, DataId("drawn", "test"), "", n=1)


def drawn_counts(rng, units, draws=5):
    """(N, draws) how often each unit is drawn; many are not drawn at all."""
    return np.stack(
        [np.bincount(rng.integers(units, size=units), minlength=units) for _ in range(draws)], 1
    )


def check(outcomes, counts, expected):
    found = weighted_score(outcomes)(counts.astype(np.float64))
    np.testing.assert_allclose(found, [expected(column) for column in counts.T], rtol=1e-12)


def test_accuracies_and_their_means_over_classes():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(60, 4)), rng.integers(4, size=60)
    outputs[np.arange(60), labels] += 1
    hits, counts = top_k_hits(outputs, labels, 1), drawn_counts(rng, 60)
    check(mean_outcomes(SCORE, "", hits), counts, lambda c: slow.accuracy(hits, c))
    by_class = group_outcomes(SCORE, "", hits, labels, 4)
    check(by_class, counts, lambda c: slow.mean_class_accuracy(hits, labels, c))
    assert recorded_value(by_class) == pytest.approx(mean_class_accuracy(outputs, labels)[0])


def test_classes_that_are_not_drawn_do_not_count():
    hits, labels = np.array([True, False, True]), np.array([0, 0, 1])
    counts = np.array([[2], [1], [0]])
    check(group_outcomes(SCORE, "", hits, labels, 3), counts, lambda c: 200 / 3)


@pytest.mark.parametrize("curve", ["area", "11-point in integers"])
def test_average_precision_with_ties_and_excluded_images(curve):
    rng = np.random.default_rng(1)
    decisions = rng.normal(size=(50, 3)).round(1)  # a few are equal
    labels = rng.choice([1, -1, -1, -1, 0], size=(50, 3))
    outcomes = ranking_outcomes(SCORE, "", decisions, labels, curve=curve)
    eleven = curve != "area"
    check(
        outcomes,
        drawn_counts(rng, 50),
        lambda c: slow.mean_average_precision(decisions, labels, c, eleven_points=eleven),
    )
    kept = [column != 0 for column in labels.T]
    expected = (
        [
            eleven_point_average_precision(d[k], column[k])
            for d, column, k in zip(decisions.T, labels.T, kept, strict=True)
        ]
        if eleven
        else class_average_precisions(decisions, labels)
    )
    assert recorded_value(outcomes) == pytest.approx(np.mean(expected), rel=1e-12)


def test_columns_without_a_drawn_positive_do_not_count():
    decisions = np.array([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    labels = np.array([[1, -1], [-1, -1], [-1, 1]])
    outcomes = ranking_outcomes(SCORE, "", decisions, labels, curve="area")
    found = weighted_score(outcomes)(np.array([[1.0, 0], [2, 3], [0, 0]]))
    np.testing.assert_array_equal(found, [100, np.nan])


def test_mean_iou_and_quotients_of_sums():
    rng = np.random.default_rng(2)
    unions = rng.integers(0, 50, (40, 5)) * (rng.random((40, 5)) < 0.3)
    unions[:, 4] = 0  # a class without any pixel
    shares = rng.random((40, 5))
    intersections = (shares * unions).astype(np.int64)
    counts = drawn_counts(rng, 40)
    check(
        mean_iou_outcomes(SCORE, "", intersections, unions),
        counts,
        lambda c: slow.mean_iou(intersections, unions, c),
    )
    squares, pixels = rng.random(40), rng.integers(1, 9, 40)
    check(
        ratio_outcomes(SCORE, "", squares, pixels, scale=100, root=True),
        counts,
        lambda c: 100 * np.sqrt(squares @ c / (pixels @ c)),
    )


def detection_cases():
    rng = np.random.default_rng(3)
    voc = dataclasses.replace(voc_scenes(rng, 30), classes=("cat", "dog", "cow", "unseen", "late"))
    coco = coco_scenes(rng, 14)
    without_crowds = tuple(
        dataclasses.replace(s, instances=tuple(o for o in s.instances if not o.crowd))
        for s in coco.scenes
    )
    federation = Federation(
        ("r", "c", "f", "f", "c"),
        absent={s.id: frozenset({1, 2}) for s in coco.scenes[::2]},
        incomplete={s.id: frozenset({0}) for s in coco.scenes[::3]},
    )
    lvis = dataclasses.replace(coco, scenes=without_crowds, federation=federation)
    eleven, area = (VocRules(m, rounding=False, ties="stable") for m in ("11-point", "area"))
    ignored = dataclasses.replace(area, absent="ignored")
    return [
        pytest.param(voc, None, lambda s, p: voc_ap(s, p, eleven), id="VOC 11-point"),
        pytest.param(voc, None, lambda s, p: voc_ap(s, p, ignored), id="VOC area"),
        pytest.param(coco, None, coco_ap, id="COCO boxes"),
        pytest.param(coco, box_masks, lambda s, p: coco_ap(s, p, "segm"), id="COCO masks"),
        pytest.param(lvis, None, lvis_ap, id="LVIS"),
    ]


def with_all_federated(scenes, drawn):
    """The federation of a split with copies: that of the originals."""
    federation = scenes.federation
    if federation is None:
        return drawn
    originals = {new.id: new.id // 1000 for new in drawn.scenes}
    return dataclasses.replace(
        drawn,
        federation=dataclasses.replace(
            federation,
            absent={n: federation.absent.get(o, frozenset()) for n, o in originals.items()},
            incomplete={n: federation.incomplete.get(o, frozenset()) for n, o in originals.items()},
        ),
    )


@pytest.mark.parametrize(("scenes", "masks", "metric"), detection_cases())
def test_average_precision_of_detections(scenes, masks, metric):
    rng = np.random.default_rng(4)
    predictions = predict(rng, scenes, masks=masks)
    scores = metric(scenes, predictions)
    counts = drawn_counts(rng, len(scenes.scenes), draws=2)
    drawn = []
    for column in counts.T:
        split, found = slow.drawn_scenes(scenes, predictions, column)
        drawn.append(metric(with_all_federated(scenes, split), found).numbers)
    by_name = scores_of({"box": scores}, DataId("drawn", ""), len(scenes.scenes), "")
    assert len(by_name) >= 3
    for score in by_name:
        name = score.name.removeprefix("box ")
        assert score.outcomes is not None
        assert recorded_value(score.outcomes) == pytest.approx(scores.numbers[name], rel=1e-12)
        found = weighted_score(score.outcomes)(counts.astype(np.float64))
        np.testing.assert_allclose(found, [numbers[name] for numbers in drawn], rtol=1e-12)


def test_one_more_unit_changes_an_accuracy_by_one_over_n():
    hits = np.ones(200, bool)
    assert variance_of_one_unit(mean_outcomes(SCORE, "", hits)) == pytest.approx(0.5**2)
    grouped = group_outcomes(SCORE, "", hits, np.arange(200) % 2, 2)  # 100 images in each of 2
    assert variance_of_one_unit(grouped) == pytest.approx(0.5**2)
    labels = np.where(np.arange(200)[:, None] < 50, 1, -1)  # a positive changes it by 1 / 50
    ranked = ranking_outcomes(SCORE, "", hits[:, None] * 1.0, labels, curve="area")
    assert variance_of_one_unit(ranked) == pytest.approx(2**2 / 4)
