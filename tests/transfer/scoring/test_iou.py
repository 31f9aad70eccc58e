"""Scores of label maps equal a slow twin; benchmarks/segmentation.py compares them with torchmetrics."""

import numpy as np
import pytest

from tests.reference import segmentation as slow
from transfer.scoring import iou
from transfer.scoring.iou import SegmentationScores, confusion, without_boundaries

CLASSES = 5


def maps(seed: int, shape: tuple[int, int] = (13, 17)) -> tuple[np.ndarray, np.ndarray]:
    """Truth with void pixels and without class 3, and a prediction without classes 3 and 4."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 2, 4, 255], shape).astype(np.uint8)
    guess = random.integers(0, 3, shape).astype(np.uint8)
    return truth, np.where(random.random(shape) < 0.6, np.minimum(truth, 2), guess).astype(np.uint8)


def scores_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> SegmentationScores:
    names = tuple("abcde")
    return SegmentationScores(names, sum(confusion(t, p, CLASSES) for t, p in pairs))


def test_ious_are_from_totals_over_all_images_and_equal_the_slow_twin():
    pairs = [maps(0), maps(1, (1, 29)), maps(2, (31, 2))]
    scores = scores_of(pairs)
    truths, predictions = zip(*pairs, strict=True)
    expected = slow.class_ious(truths, predictions, CLASSES)
    np.testing.assert_allclose(scores.iou, expected, rtol=1e-12)
    assert scores.mean_iou == pytest.approx(np.nanmean(expected))
    assert scores.absent == ("d",)
    assert scores.table()[3]["IoU"] is None


def test_pixel_accuracy_is_the_share_of_labeled_pixels_with_the_true_class():
    pairs = [maps(0), maps(1)]
    hits = sum(int((t == p).sum()) for t, p in pairs)
    labeled = sum(int((t != 255).sum()) for t, _ in pairs)
    assert scores_of(pairs).pixel_accuracy == pytest.approx(100 * hits / labeled)


def test_void_pixels_are_not_counted_in_either_map():
    truth, predicted = np.array([[0, 255, 1]], np.uint8), np.array([[0, 1, 255]], np.uint8)
    assert confusion(truth, predicted, 2).tolist() == [[1, 0], [0, 0]]


def test_counts_are_exact_beyond_the_integers_of_float32(monkeypatch):
    monkeypatch.setattr(iou, "EXACT", 40)  # blocks of two rows
    truth, predicted = maps(4)
    whole = np.zeros((CLASSES, CLASSES), np.int64)
    valid = truth != 255
    np.add.at(whole, (truth[valid], predicted[valid]), 1)
    assert confusion(truth, predicted, CLASSES).tolist() == whole.tolist()


@pytest.mark.parametrize("width", [0, 1, 2])
def test_pixels_near_boundaries_become_void(width):
    truth = np.zeros((9, 12), np.uint8)
    truth[2:6, 3:9], truth[7:, 10:] = 1, 255
    expected = slow.far_from_boundaries(truth, width)
    assert without_boundaries(truth, width).tolist() == expected.tolist()


def test_scores_of_nothing_are_undefined():
    scores = scores_of([(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))])
    assert np.isnan([scores.mean_iou, scores.pixel_accuracy]).all()
