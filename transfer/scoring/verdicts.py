"""Which single detections were right and which were wrong, to look at; no score is made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msbreg.data.scenes import Prediction, Scenes
from transfer.scoring.prediction_checks import in_order
from transfer.scoring.voc_ap import (
    VocRules,
    best_overlaps,
    class_detections,
    class_objects,
    hits_and_misses,
)

THRESHOLD = 0.5
# VOC's judgment of boxes as they are; the metric plays no part in it.
_RULES = VocRules("area", rounding=False, ties="stable")


@dataclass(frozen=True)
class Pick:
    """One detection.

    Attributes:
        scene: its place in the split.
        index: its place in the prediction of that scene.
        overlap: its highest IoU with an object of its class; -inf where the scene has none.
    """

    scene: int
    index: int
    overlap: float


def best_and_worst(
    scenes: Scenes, predictions: Sequence[Prediction], count: int
) -> tuple[list[Pick], list[Pick]]:
    """Give the hits and the misses of the highest scores, up to ``count``, one of a scene each.

    A hit is the first by score with an IoU above 0.5 with the object of its class that it overlaps
    most; what lies on a difficult object or a crowd is neither.

    Raises:
        UserError: the predictions do not fit the split; see ``in_order``.
    """
    ordered = in_order(scenes, predictions)
    lengths = [len(p.scores) for p in ordered]
    scene = np.repeat(np.arange(len(ordered)), lengths)
    index = np.concatenate([np.arange(0), *map(np.arange, lengths)])
    scores = np.concatenate([np.zeros(0), *(p.scores for p in ordered)])
    hit, miss, overlap = judged(scenes, ordered)
    ranking = np.argsort(-scores, kind="stable")

    def first(chosen: np.ndarray) -> list[Pick]:  # (N,) bool
        ranked = ranking[chosen[ranking]]
        _, places = np.unique(scene[ranked], return_index=True)
        kept = ranked[np.sort(places)][:count]
        return [Pick(int(scene[i]), int(index[i]), float(overlap[i])) for i in kept]

    return first(hit), first(miss)


def judged(
    scenes: Scenes, ordered: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (N,) bool, (N,) bool, (N,) float64
    """Judge all N detections, scene by scene: hit, miss (or neither), and highest IoU."""
    labels = np.concatenate([np.zeros(0, np.int64), *(p.labels for p in ordered)])
    hit, miss = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    overlap = np.full(len(labels), -np.inf)
    objects = class_objects(scenes, _RULES)
    found = class_detections(ordered, len(scenes.classes), _RULES)
    for k, (own_objects, own) in enumerate(zip(objects, found, strict=True)):
        places = np.flatnonzero(labels == k)
        overlap[places], nearest = best_overlaps(own_objects, own, pixel=1.0)
        order = np.argsort(-own.scores, kind="stable")
        above = overlap[places][order] > THRESHOLD
        ranked = places[order]
        hit[ranked], miss[ranked] = hits_and_misses(above, nearest[order], own_objects.difficult)
    return hit, miss, overlap
