"""Which detections match an object, by class and rank: all that a detection score depends on.

``voc_ap``, ``coco_ap`` and ``lvis_ap`` differ in how they match and ignore; once that is done, the average
precision is a function of these flags and of the number of objects. A test image that is drawn twice counts
each of its detections and objects twice at their ranks, since matching never crosses images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Curve = Literal["11-point", "area", "101-point"]


class ClassMatches(NamedTuple):
    """Detections of one class by descending score, and its objects.

    Attributes:
        image: (D,) index of each detection's image in the split.
        hit: (T, D) whether it matches an object at each of the T thresholds.
        ignored: (T, D) whether it counts neither as a hit nor as a miss.
        object_image: (M,) the image of each object that counts.
    """

    image: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray


@dataclass(frozen=True)
class MatchFlags:
    """The matches of all K classes of a split.

    Attributes:
        curve: how precision is averaged over recall: at VOC's 11 recalls, over its area, or at COCO's 101.
        absent_score_zero: whether classes without objects are in the mean, with a score of 0.
        frequencies: LVIS: r, c or f for each class; else empty.
    """

    classes: tuple[ClassMatches, ...]
    curve: Curve
    absent_score_zero: bool = False
    frequencies: tuple[str, ...] = ()


def bits(
    flags: np.ndarray,  # (T, D) bool, T <= 16
) -> np.ndarray:  # (D,) uint16
    """Flags of T thresholds as the bits of a number, the first in the lowest bit.

    >>> bits(np.array([[True, False], [True, True]]))
    array([3, 2], dtype=uint16)
    """
    powers = np.uint16(1) << np.arange(len(flags), dtype=np.uint16)
    return (flags * powers[:, None]).sum(axis=0, dtype=np.uint16)


def coco_matches(
    evaluations: Sequence[dict[str, object] | None],  # of all images, in the order of equal scores
    places: Sequence[int],  # index in the split of each of these images
    thresholds: int,
) -> ClassMatches:
    """The matches of one class from COCOeval's ``evalImgs`` of all sizes.

    Detections are ordered like in COCOeval.accumulate: a stable sort by descending score.
    """
    images, scores, matched, ignored, objects = [], [], [], [], []
    for each, place in zip(evaluations, places, strict=True):
        if each is None:
            continue
        found = np.asarray(each["dtScores"], np.float64)
        images.append(np.full(len(found), place, np.int64))
        scores.append(found)
        matched.append(np.asarray(each["dtMatches"]).reshape(thresholds, -1) > 0)
        ignored.append(np.asarray(each["dtIgnore"]).reshape(thresholds, -1).astype(bool))
        counted = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
        objects.append(np.full(counted, place, np.int64))
    if not images:
        nothing, flags = np.zeros(0, np.int64), np.zeros((thresholds, 0), bool)
        return ClassMatches(nothing, flags, flags, nothing)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    hit, ignore = np.concatenate(matched, axis=1), np.concatenate(ignored, axis=1)
    return ClassMatches(
        np.concatenate(images)[order],
        (hit & ~ignore)[:, order],
        ignore[:, order],
        np.concatenate(objects),
    )
