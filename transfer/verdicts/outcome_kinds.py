"""The outcomes of each kind of score, from what the protocols compute.

Each function takes the ``Score`` and the digest of its units, and returns the ``Outcomes``.
"""

from collections.abc import Mapping

import numpy as np

from transfer.scoring.match_flags import MatchFlags, bits
from transfer.scoring.scores import Score
from transfer.verdicts.outcomes import Kind, Outcomes


def mean_outcomes(
    score: Score,
    units: str,
    hits: np.ndarray,  # (N,) bool, or (N,) number of hits out of ``trials``
    *,
    trials: int = 1,
) -> Outcomes:
    """Of an accuracy; with several trials per image, of the mean of their accuracies."""
    stored = hits.astype(np.uint8 if trials < 2**8 else np.uint16)
    return _outcomes(score, units, "mean", len(hits), {"hits": stored}, {"trials": trials})


def group_outcomes(
    score: Score,
    units: str,
    hits: np.ndarray,  # (N,) bool
    groups: np.ndarray,  # (N,), in 0..G-1
    count: int,
) -> Outcomes:
    """Of the mean over G groups, such as classes, of their accuracies; empty groups do not count."""
    arrays = {"hits": hits.astype(np.uint8), "groups": _smallest(groups)}
    return _outcomes(score, units, "mean of groups", len(hits), arrays, {"groups": count})


def ratio_outcomes(
    score: Score,
    units: str,
    numerator: np.ndarray,  # (N,)
    denominator: np.ndarray,  # (N,)
    *,
    scale: float,
    root: bool = False,
) -> Outcomes:
    """Of ``scale`` times a quotient of sums over the images, or times its square root."""
    arrays = {"numerator": numerator, "denominator": denominator}
    settings = {"scale": scale, "root": root}
    return _outcomes(score, units, "ratio", len(numerator), arrays, settings)


def mean_iou_outcomes(
    score: Score,
    units: str,
    intersections: np.ndarray,  # (N, C) pixels that have the class in both maps
    unions: np.ndarray,  # (N, C) pixels that have it in either
) -> Outcomes:
    """Of a mean IoU of totals over the images."""
    image, column = np.nonzero(unions)
    arrays = {
        "image": _smallest(image),
        "column": _smallest(column),
        "numerator": intersections[image, column].astype(np.int32),
        "denominator": unions[image, column].astype(np.int32),
    }
    columns = {"columns": int(unions.shape[1])}
    return _outcomes(score, units, "mean of ratios", len(unions), arrays, columns)


def ranking_outcomes(
    score: Score,
    units: str,
    decisions: np.ndarray,  # (N, C) larger is more confident
    labels: np.ndarray,  # (N, C): 1 = positive, -1 = negative, 0 = excluded
    *,
    curve: str,
) -> Outcomes:
    """Of a mean over columns of the average precision of images.

    Args:
        curve: "area" or "11-point in integers".
    """
    ranks = [np.unique(-column, return_inverse=True)[1].reshape(-1) for column in decisions.T]
    arrays = {"ranks": _smallest(np.stack(ranks, axis=1)), "labels": labels.astype(np.int8)}
    return _outcomes(score, units, "rankings", len(labels), arrays, {"curve": curve})


def detection_outcomes(
    score: Score,
    units: str,
    matches: MatchFlags,
    *,
    thresholds: tuple[int, ...],
    frequency: str = "",
) -> Outcomes:
    """Of an average precision of detections.

    Args:
        thresholds: indices of the IoU thresholds that the score averages over.
        frequency: LVIS: only the classes that are r, c or f.
    """
    known = [label for label, own in enumerate(matches.classes) if len(own.object_image)]
    counted = [matches.classes[label] for label in known]
    pairs = [np.unique(own.object_image, return_counts=True) for own in counted]
    arrays = {
        "image": _smallest(_joined([own.image for own in counted])),
        "hit": _joined([bits(own.hit) for own in counted]).astype(np.uint16),
        "ignored": _joined([bits(own.ignored) for own in counted]).astype(np.uint16),
        "detections": np.array([len(own.image) for own in counted], np.int64),
        "object_image": _smallest(_joined([images for images, _ in pairs])),
        "object_class": _smallest(np.repeat(np.arange(len(pairs)), [len(i) for i, _ in pairs])),
        "objects": _smallest(_joined([counts for _, counts in pairs])),
    }
    frequencies = matches.frequencies
    absent = len(matches.classes) - len(known)
    settings = {
        "classes": len(known),
        "chosen_classes": [
            place
            for place, label in enumerate(known)
            if not frequency or frequencies[label] == frequency
        ],
        "thresholds": max((len(own.hit) for own in counted), default=0),
        "chosen_thresholds": list(thresholds),
        "curve": matches.curve,
        "zeros": absent if matches.absent_score_zero else 0,
    }
    return _outcomes(score, units, "detections", score.n, arrays, settings)


def _outcomes(
    score: Score,
    units: str,
    kind: Kind,
    count: int,
    arrays: dict[str, np.ndarray],
    settings: Mapping[str, object],
) -> Outcomes:
    return Outcomes(score.name, score.rules, score.data, units, count, kind, arrays, settings)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _smallest(numbers: np.ndarray) -> np.ndarray:
    """The same non-negative integers in the smallest unsigned type."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
