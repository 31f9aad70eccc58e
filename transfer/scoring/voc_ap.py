"""VOC's average precision of one class, as functions on arrays.

Boxes here are VOC's: 1-based, the right and bottom edges inclusive.

PASCAL VOC's average precision of boxes, number for number as Detectron2 computes it.

Every rule in which evaluators differ is a field of ``VocRules``; its defaults are those of
Detectron2's PascalVOCDetectionEvaluator (``detectron2/evaluation/pascal_voc_evaluation.py``, which
goes back to py-faster-rcnn), the evaluator behind the published numbers of MoCo and its successors.
The mathematics are in ``voc_matching.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from msbreg.data.scenes import Prediction, Scenes
from msbreg.run.errors import UserError
from transfer.scoring.predictions import in_order
from transfer.scoring.scores import RECALLS, THRESHOLDS, DetectionScores

# ---- VOC's average precision of one class, as functions on arrays


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


# ---- PASCAL VOC's average precision of boxes, number for number as Detectron2 computes it


Ties = Literal["numpy", "stable"]


@dataclass(frozen=True)
class VocRules:
    """How hits are counted and averaged.

    Attributes:
        metric: "11-point" averages the interpolated precision at the recalls 0, 0.1, ..., 1 (VOC
            2007); "area" is the area under the interpolated curve (VOC from 2010 on).
        pixel_rule: the side of a box is ``xmax - xmin + 1``, for pixels are counted and the edges are
            inclusive; without it ``xmax - xmin``, as in scripts that forget it.
        rounding: scores are rounded to 3 decimals and edges (1-based) to 1 before anything else, as
            by the devkit's text files; scores that become equal are then ranked by ``ties``.
        difficult: objects so marked are neither hit nor miss ("ignored"), or as any other ("counted").
        reached: an IoU equal to the threshold is a hit; the devkit's Matlab code says so, Detectron2
            does not.
        ties: how equal scores rank. "numpy" is Detectron2's ``np.argsort(-scores)``, whose default
            sort is not stable: the order depends on NumPy's version and the vector instructions of
            the CPU (AVX-512, AVX2, none), and with it the score. On 4,952 drawn images with rounded
            scores these three were apart by 0.08 AP50 and 0.22 AP75; so are Detectron2's on such
            machines. "stable" keeps the order of the split, then of the prediction, everywhere.
        absent: a class without objects to find scores as the formula falls out ("scored", as in
            Detectron2: 0; with "area" NaN as soon as anything is detected, and so the mean), or is no
            part of the mean ("ignored").
        thresholds: the IoUs that AP is the mean over.
    """

    metric: Metric
    pixel_rule: bool = True
    rounding: bool = True
    difficult: Literal["ignored", "counted"] = "ignored"
    reached: bool = False
    ties: Ties = "numpy"
    absent: Literal["scored", "ignored"] = "scored"
    thresholds: tuple[float, ...] = THRESHOLDS

    @classmethod
    def of_year(cls, year: int | None) -> "VocRules":
        """Detectron2's choice: 11 points for 2007, the area for any other year.

        Splits without a year are users' own, of which Detectron2 knows none, and small: they may lack
        objects of a class, which is then no part of the mean.
        """
        if year is None:
            return cls("area", absent="ignored")
        return cls("11-point" if year == 2007 else "area")


@dataclass(frozen=True)
class VocScores(DetectionScores):
    """Scores, and the rules that they follow; ``numbers`` has AP, AP50 and AP75."""

    rules: VocRules


def voc_ap(
    scenes: Scenes, predictions: Sequence[Prediction], rules: VocRules | None = None
) -> VocScores:
    """Average precision of the predicted boxes; by default under the rules of the split's year.

    Classes are averaged at each threshold, then the thresholds.

    Raises:
        UserError: the split has no scene or no class; or the predictions do not fit it, as
            ``in_order`` says.
    """
    if not scenes.scenes or not scenes.classes:
        raise UserError(
            f"{scenes.name} has {len(scenes.scenes)} scenes and {len(scenes.classes)} classes; "
            "expected at least one of each."
        )
    rules = rules or VocRules.of_year(scenes.year)
    objects = class_objects(scenes, rules)
    found = class_detections(in_order(scenes, predictions), len(scenes.classes), rules)
    aps, curves = zip(*map(lambda o, f: class_ap(o, f, rules), objects, found), strict=True)
    class_aps = 100 * np.stack(aps, axis=1)  # (T, K)
    counted = np.array([np.count_nonzero(~o.difficult) for o in objects])
    if rules.absent == "ignored":
        class_aps[:, counted == 0] = np.nan
    chosen = class_aps[:, counted > 0] if rules.absent == "ignored" else class_aps
    means = [float(np.mean(row)) if row.size else float("nan") for row in chosen]
    at = dict(zip(rules.thresholds, means, strict=True))
    return VocScores(
        metric=f"VOC {rules.metric} AP",
        numbers={
            "AP": float(np.mean(means)),
            **{f"AP{round(100 * t)}": at[t] for t in (0.5, 0.75) if t in at},
        },
        classes=scenes.classes,
        thresholds=rules.thresholds,
        class_ap=class_aps,
        precision=np.stack(curves, axis=2),
        objects=counted,
        detections=np.array([len(f.scores) for f in found]),
        rules=rules,
    )


def class_objects(scenes: Scenes, rules: VocRules) -> list[Objects]:
    """The objects of each class; a crowd is never one that can be hit or missed."""
    rows = [(i, o) for i, scene in enumerate(scenes.scenes) for o in scene.instances]
    scene = np.array([i for i, _ in rows], dtype=np.int64)
    labels = np.array([o.label for _, o in rows], dtype=np.int64)
    boxes = np.array([o.box for _, o in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] += 1
    counted = rules.difficult == "counted"
    ignored = np.array([o.crowd or (o.difficult and not counted) for _, o in rows], dtype=bool)
    per_class = [labels == k for k in range(len(scenes.classes))]
    return [Objects(scene[own], boxes[own], ignored[own]) for own in per_class]


def class_detections(ordered: Sequence[Prediction], classes: int, rules: VocRules) -> list[Found]:
    """The detections of each class, rounded if the rules say so."""
    scene = np.repeat(np.arange(len(ordered)), [len(p.scores) for p in ordered])
    labels = np.concatenate([p.labels for p in ordered])
    corners = np.concatenate([p.boxes for p in ordered]).astype(np.float32)
    corners[:, :2] += 1  # in float32, as Detectron2
    boxes = corners.astype(np.float64)
    scores = np.concatenate([p.scores for p in ordered]).astype(np.float32).astype(np.float64)
    if rules.rounding:
        # What printing and reading back gives: float32 times 10 or 1000 is exact in float64.
        boxes, scores = np.rint(boxes * 10) / 10, np.rint(scores * 1000) / 1000
    per_class = [labels == k for k in range(classes)]
    return [Found(scene[own], boxes[own], scores[own]) for own in per_class]


def class_ap(
    objects: Objects, found: Found, rules: VocRules
) -> tuple[np.ndarray, np.ndarray]:  # (T,) in [0, 1], (T, 101)
    """Average precision of one class at each threshold, and its interpolated curves."""
    overlap, nearest = best_overlaps(objects, found, 1.0 if rules.pixel_rule else 0.0)
    order = np.argsort(-found.scores, kind="stable" if rules.ties == "stable" else None)
    overlap, nearest = overlap[order], nearest[order]
    positives = int(np.count_nonzero(~objects.difficult))
    aps, curves = [], []
    for threshold in rules.thresholds:
        above = overlap >= threshold if rules.reached else overlap > threshold
        hit, miss = hits_and_misses(above, nearest, objects.difficult)
        recall, precision = precision_recall(hit, miss, positives)
        aps.append(average_precision(recall, precision, rules.metric))
        curves.append(sampled(recall, precision, positives))
    return np.array(aps, dtype=np.float64), np.array(curves)
