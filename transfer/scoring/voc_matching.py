"""VOC's average precision of one class, as functions on arrays.

Boxes here are VOC's: 1-based, the right and bottom edges inclusive.
"""

from typing import Literal, NamedTuple

import numpy as np

from transfer.scoring.detection_scores import RECALLS

Metric = Literal["11-point", "area"]


class Objects(NamedTuple):
    """The M annotated objects of one class, scene by scene."""

    scene: np.ndarray  # (M,) int64, rising
    boxes: np.ndarray  # (M, 4) float64
    difficult: np.ndarray  # (M,) bool


class Found(NamedTuple):
    """The D detections of one class, scene by scene, as the detector ordered them."""

    scene: np.ndarray  # (D,) int64, rising
    boxes: np.ndarray  # (D, 4) float64
    scores: np.ndarray  # (D,) float64


def best_overlaps(
    objects: Objects,
    found: Found,
    pixel: float,  # added to each side: 1 by VOC's rule
) -> tuple[np.ndarray, np.ndarray]:  # (D,) float64, (D,) int64
    """Give each detection's highest IoU with an object of its scene, and the first such object.

    Where its scene has none, -inf and -1.
    """
    overlap = np.full(len(found.scores), -np.inf)
    nearest = np.full(len(found.scores), -1)
    first = np.searchsorted(objects.scene, found.scene, side="left")
    count = np.searchsorted(objects.scene, found.scene, side="right") - first
    some = np.flatnonzero(count)
    if not len(some):
        return overlap, nearest
    count = count[some]
    starts = np.cumsum(count) - count  # of each detection's pairs
    of = np.repeat(np.arange(len(some)), count)
    pair = np.arange(len(of)) - starts[of] + first[some][of]  # index of the object
    ious = _ious(objects.boxes[pair], found.boxes[some][of], pixel)
    overlap[some] = np.maximum.reduceat(ious, starts)
    candidates = np.where(ious == overlap[some][of], pair, len(objects.scene))
    nearest[some] = np.minimum.reduceat(candidates, starts)
    return overlap, nearest


def _ious(
    a: np.ndarray,  # (P, 4)
    b: np.ndarray,  # (P, 4)
    pixel: float,
) -> np.ndarray:  # (P,)
    """IoU pair by pair, with Detectron2's order of operations so that no bit differs."""
    width = np.maximum(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + pixel, 0.0)
    height = np.maximum(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + pixel, 0.0)
    common = width * height
    area_a = (a[:, 2] - a[:, 0] + pixel) * (a[:, 3] - a[:, 1] + pixel)
    area_b = (b[:, 2] - b[:, 0] + pixel) * (b[:, 3] - b[:, 1] + pixel)
    union = area_b + area_a - common
    # Without the pixel rule two boxes of one pixel have no area: they do not overlap.
    return np.divide(common, union, out=np.zeros_like(common), where=union != 0)


def hits_and_misses(
    above: np.ndarray,  # (D,) bool, by falling score
    nearest: np.ndarray,  # (D,) int64
    difficult: np.ndarray,  # (M,) bool
) -> tuple[np.ndarray, np.ndarray]:  # (D,) bool, (D,) bool
    """Judge each detection; one whose nearest object is difficult is neither.

    Only the nearest object counts: the first that claims it is a hit, later ones are misses even if
    they overlap another object that is still free.
    """
    claims = above.copy()
    claims[above] = ~difficult[nearest[above]]
    hit = np.zeros(len(above), dtype=bool)
    ranks = np.flatnonzero(claims)
    _, first = np.unique(nearest[ranks], return_index=True)
    hit[ranks[first]] = True
    return hit, ~above | (claims & ~hit)


def precision_recall(
    hit: np.ndarray,  # (D,) bool, by falling score
    miss: np.ndarray,  # (D,) bool
    positives: int,
) -> tuple[np.ndarray, np.ndarray]:  # (D,), (D,)
    """Give recall and precision after each detection; recall is NaN without positives."""
    hits, misses = np.cumsum(hit.astype(np.float64)), np.cumsum(miss.astype(np.float64))
    recall = hits / positives if positives else np.full(len(hits), np.nan)
    # eps: a first detection that is neither hit nor miss would be 0 / 0.
    return recall, hits / np.maximum(hits + misses, np.finfo(np.float64).eps)


def average_precision(
    recall: np.ndarray,  # (D,) never falling
    precision: np.ndarray,  # (D,)
    metric: Metric,
) -> float:
    """Average the curve, in [0, 1]; no detection scores 0."""
    if metric == "11-point":
        total = 0.0
        for level in np.arange(0.0, 1.1, 0.1):  # with its rounding errors: 0.30000000000000004
            reached = recall >= level
            total = total + (precision[reached].max() if reached.any() else 0) / 11.0
        return float(total)
    edges = np.concatenate(([0.0], recall, [1.0]))
    heights = np.maximum.accumulate(np.concatenate(([0.0], precision, [0.0]))[::-1])[::-1]
    steps = np.where(edges[1:] != edges[:-1])[0]
    return float(np.sum((edges[steps + 1] - edges[steps]) * heights[steps + 1]))


def sampled(recall: np.ndarray, precision: np.ndarray, positives: int) -> np.ndarray:  # (101,)
    """Give the highest precision at each of ``RECALLS`` or above; NaN without positives."""
    if not positives:
        return np.full(len(RECALLS), np.nan)
    heights = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return heights[np.searchsorted(recall, RECALLS, side="left")]
