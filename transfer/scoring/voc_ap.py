"""PASCAL VOC's average precision of boxes, with exactly the numbers of Detectron2.

Every rule in which evaluators differ is a field of ``VocRules``. Its defaults are those of Detectron2's
PascalVOCDetectionEvaluator (``detectron2/evaluation/pascal_voc_evaluation.py``, derived from
py-faster-rcnn), the evaluator of the published numbers of MoCo and its successors.

Boxes are in VOC's convention: 1-based, with inclusive right and bottom edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from msbreg.data.scenes import Prediction, Scenes
from msbreg.run.errors import UserError
from transfer.scoring.match_flags import ClassMatches, MatchFlags
from transfer.scoring.predictions import in_order
from transfer.scoring.scores import RECALLS, THRESHOLDS, DetectionScores

# ---- Average precision of one class, as functions on arrays


Metric = Literal["11-point", "area"]


class Objects(NamedTuple):
    """The M annotated objects of a class, ordered by scene."""

    scene: np.ndarray  # (M,) int64, ascending
    boxes: np.ndarray  # (M, 4) float64
    difficult: np.ndarray  # (M,) bool


class Found(NamedTuple):
    """The D detections of a class, ordered by scene, then as the detector ordered them."""

    scene: np.ndarray  # (D,) int64, ascending
    boxes: np.ndarray  # (D, 4) float64
    scores: np.ndarray  # (D,) float64


def best_overlaps(
    objects: Objects,
    found: Found,
    pixel: float,  # added to each side: 1 in VOC's rules
) -> tuple[np.ndarray, np.ndarray]:  # (D,) float64, (D,) int64
    """Each detection's highest IoU with an object of its scene, and the index of the first such object.

    -inf and -1 if the scene has no object.
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
    """IoU of P pairs, in Detectron2's order of operations, so that it is bit for bit equal."""
    width = np.maximum(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + pixel, 0.0)
    height = np.maximum(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + pixel, 0.0)
    common = width * height
    area_a = (a[:, 2] - a[:, 0] + pixel) * (a[:, 3] - a[:, 1] + pixel)
    area_b = (b[:, 2] - b[:, 0] + pixel) * (b[:, 3] - b[:, 1] + pixel)
    union = area_b + area_a - common
    # Without the pixel rule, boxes of one pixel have no area and do not overlap.
    return np.divide(common, union, out=np.zeros_like(common), where=union != 0)


def hits_and_misses(
    above: np.ndarray,  # (D,) bool, by descending score
    nearest: np.ndarray,  # (D,) int64
    difficult: np.ndarray,  # (M,) bool
) -> tuple[np.ndarray, np.ndarray]:  # (D,) bool, (D,) bool
    """Whether each detection is a hit or a miss; neither if its nearest object is difficult.

    A detection can only match its nearest object. The first detection of an object is a hit; later ones are
    misses even if they overlap another, unmatched object.
    """
    claims = above.copy()
    claims[above] = ~difficult[nearest[above]]
    hit = np.zeros(len(above), dtype=bool)
    ranks = np.flatnonzero(claims)
    _, first = np.unique(nearest[ranks], return_index=True)
    hit[ranks[first]] = True
    return hit, ~above | (claims & ~hit)


def precision_recall(
    hit: np.ndarray,  # (D,) bool, by descending score
    miss: np.ndarray,  # (D,) bool
    positives: int,
) -> tuple[np.ndarray, np.ndarray]:  # (D,), (D,)
    """Recall and precision after each detection; recall is NaN without positives."""
    hits, misses = np.cumsum(hit.astype(np.float64)), np.cumsum(miss.astype(np.float64))
    recall = hits / positives if positives else np.full(len(hits), np.nan)
    # eps avoids 0 / 0 if the first detection is neither a hit nor a miss.
    return recall, hits / np.maximum(hits + misses, np.finfo(np.float64).eps)


def average_precision(
    recall: np.ndarray,  # (D,) non-decreasing
    precision: np.ndarray,  # (D,)
    metric: Metric,
) -> float:
    """Average precision in [0, 1]; 0 without detections."""
    if metric == "11-point":
        total = 0.0
        for level in np.arange(
            0.0, 1.1, 0.1
        ):  # includes rounding errors such as 0.30000000000000004
            reached = recall >= level
            total = total + (precision[reached].max() if reached.any() else 0) / 11.0
        return float(total)
    edges = np.concatenate(([0.0], recall, [1.0]))
    heights = np.maximum.accumulate(np.concatenate(([0.0], precision, [0.0]))[::-1])[::-1]
    steps = np.where(edges[1:] != edges[:-1])[0]
    return float(np.sum((edges[steps + 1] - edges[steps]) * heights[steps + 1]))


def sampled(recall: np.ndarray, precision: np.ndarray, positives: int) -> np.ndarray:  # (101,)
    """The highest precision at each of ``RECALLS`` or above; NaN without positives."""
    if not positives:
        return np.full(len(RECALLS), np.nan)
    heights = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return heights[np.searchsorted(recall, RECALLS, side="left")]


# ---- Scores of a split


Ties = Literal["numpy", "stable"]


@dataclass(frozen=True)
class VocRules:
    """Rules for matching and averaging.

    Attributes:
        metric: "11-point" averages the interpolated precision at the recalls 0, 0.1, ..., 1 (VOC 2007);
            "area" is the area under the interpolated curve (VOC since 2010).
        pixel_rule: sides of boxes are ``xmax - xmin + 1``, since edges are inclusive pixels; if False,
            ``xmax - xmin``.
        rounding: round scores to 3 decimals and (1-based) edges to 1 decimal first, as in the devkit's text
            files; ``ties`` ranks scores that become equal.
        difficult: whether matches with difficult objects are neither hits nor misses ("ignored"), or count
            like those with other objects ("counted").
        reached: whether an IoU equal to the threshold is a hit, as in the devkit's Matlab code; in Detectron2
            it is not.
        ties: order of equal scores. "numpy" is Detectron2's ``np.argsort(-scores)``, whose default sort is
            not stable: the order, and so the score, depends on NumPy's version and the CPU's vector
            instructions (AVX-512, AVX2, none). On 4,952 synthetic images with rounded scores, these three
            differed by 0.08 AP50 and 0.22 AP75, as Detectron2's scores do on such machines. "stable" keeps
            the order of the split, then of the prediction, on every machine.
        absent: whether classes without objects are included in the mean ("scored") or not ("ignored").
            Included, they score as in Detectron2: 0, or with "area" NaN if there are detections, and then
            the mean is also NaN.
        thresholds: IoU thresholds that AP averages over.
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
        """The rules that Detectron2 uses for a year: 11-point for 2007, area for any other.

        Splits without a year are users' own data, which Detectron2 does not have rules for. They may be
        small and lack objects of a class, which is then excluded from the mean.
        """
        if year is None:
            return cls("area", absent="ignored")
        return cls("11-point" if year == 2007 else "area")


@dataclass(frozen=True)
class VocScores(DetectionScores):
    """Scores and their rules; ``numbers`` contains AP, AP50 and AP75."""

    rules: VocRules


def voc_ap(
    scenes: Scenes, predictions: Sequence[Prediction], rules: VocRules | None = None
) -> VocScores:
    """Average precision of the predicted boxes, by default with the rules of the split's year.

    The mean is over the classes at each threshold, then over the thresholds.

    Raises:
        UserError: the split has no scenes or no classes, or the predictions do not match it (see
            ``in_order``).
    """
    if not scenes.scenes or not scenes.classes:
        raise UserError(
            f"{scenes.name} has {len(scenes.scenes)} scenes and {len(scenes.classes)} classes; "
            "expected at least one of each."
        )
    rules = rules or VocRules.of_year(scenes.year)
    objects = class_objects(scenes, rules)
    found = class_detections(in_order(scenes, predictions), len(scenes.classes), rules)
    matches = [class_matches(o, f, rules) for o, f in zip(objects, found, strict=True)]
    aps, curves = zip(*(class_ap(of_class, rules) for of_class in matches), strict=True)
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
        matches=MatchFlags(
            tuple(matches), rules.metric, absent_score_zero=rules.absent == "scored"
        ),
        rules=rules,
    )


def class_objects(scenes: Scenes, rules: VocRules) -> list[Objects]:
    """The objects of each class; crowds are always ignored."""
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
    """The detections of each class, rounded if ``rules.rounding`` is set."""
    scene = np.repeat(np.arange(len(ordered)), [len(p.scores) for p in ordered])
    labels = np.concatenate([p.labels for p in ordered])
    corners = np.concatenate([p.boxes for p in ordered]).astype(np.float32)
    corners[:, :2] += 1  # in float32, as in Detectron2
    boxes = corners.astype(np.float64)
    scores = np.concatenate([p.scores for p in ordered]).astype(np.float32).astype(np.float64)
    if rules.rounding:
        # Equals printing and parsing, since float32 times 10 or 1000 is exact in float64.
        boxes, scores = np.rint(boxes * 10) / 10, np.rint(scores * 1000) / 1000
    per_class = [labels == k for k in range(classes)]
    return [Found(scene[own], boxes[own], scores[own]) for own in per_class]


def class_matches(objects: Objects, found: Found, rules: VocRules) -> ClassMatches:
    """The detections of a class by descending score, with hits and ignored ones at each threshold."""
    overlap, nearest = best_overlaps(objects, found, 1.0 if rules.pixel_rule else 0.0)
    order = np.argsort(-found.scores, kind="stable" if rules.ties == "stable" else None)
    overlap, nearest = overlap[order], nearest[order]
    flags = []
    for threshold in rules.thresholds:
        above = overlap >= threshold if rules.reached else overlap > threshold
        flags.append(hits_and_misses(above, nearest, objects.difficult))
    hit, miss = (np.stack(each) for each in zip(*flags, strict=True))
    image, counted = found.scene[order], objects.scene[~objects.difficult]
    return ClassMatches(image, hit, ~(hit | miss), counted)


def class_ap(
    matches: ClassMatches, rules: VocRules
) -> tuple[np.ndarray, np.ndarray]:  # (T,) in [0, 1], (T, 101)
    """Average precision of a class at each threshold, and its interpolated curves."""
    positives = len(matches.object_image)
    aps, curves = [], []
    for hit, ignored in zip(matches.hit, matches.ignored, strict=True):
        recall, precision = precision_recall(hit, ~(hit | ignored), positives)
        aps.append(average_precision(recall, precision, rules.metric))
        curves.append(sampled(recall, precision, positives))
    return np.array(aps, dtype=np.float64), np.array(curves)
