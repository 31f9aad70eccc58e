"""Scores of weighted test images: an image of weight w counts as w copies of it.

With weights of one the score is that of the record; with the counts of a resample it is the score of that
resample. Whatever does not depend on the weights, such as the ranking, is computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse

from transfer.scoring.scores import RECALLS
from transfer.verdicts.outcomes import Outcomes

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (N, R), non-negative integers as float64 -> scores (R,); NaN where undefined."""


def weighted_score(outcomes: Outcomes) -> Statistic:
    """The score as a function of the weights of the units.

    >>> from transfer.scoring.scores import DataId
    >>> hits = {"hits": np.array([1, 1, 0, 0], np.uint8)}
    >>> top1 = Outcomes("top-1", "", DataId("digits", "val"), "", 4, "mean", hits, {"trials": 1})
    >>> weighted_score(top1)(np.array([[1.0, 2], [1, 1], [1, 1], [1, 0]]))
    array([50., 75.])
    """
    match outcomes.kind:
        case "rankings":
            return _Rankings.of(outcomes)
        case "detections":
            return _Detections.of(outcomes)
        case _:
            return _Ratios.of(outcomes)


def recorded_value(outcomes: Outcomes) -> float:
    """The score itself: every unit has the weight one."""
    return float(weighted_score(outcomes)(np.ones((outcomes.count, 1)))[0])


def variance_of_one_unit(outcomes: Outcomes) -> float:
    """How much one unit, chosen at random, can change the score: the mean of its squared share.

    A bootstrap of N units, none of which differs between two networks, has no variance; but the next unit may
    differ. Adding one unit to the differing ones, like Agresti and Min's interval for paired proportions
    (Statistics in Medicine 24, 2005), keeps intervals of small samples honest, and does not matter in large
    ones.
    """
    match outcomes.kind:
        case "rankings":
            positives = np.count_nonzero(outcomes.arrays["labels"] == 1, axis=0)
            shares = positives / (np.maximum(positives, 1) * len(positives)) ** 2
            return float(100**2 * shares.sum() / outcomes.count)
        case "detections":
            objects = numbers_of_objects(outcomes)
            totals = np.asarray(objects.sum(axis=1)).ravel()
            squares = np.asarray(objects.multiply(objects).sum(axis=1)).ravel()
            shares = squares / (np.maximum(totals, 1) * max(1, np.count_nonzero(totals))) ** 2
            return float(100**2 * shares.sum() / outcomes.count)
        case _:
            return _Ratios.of(outcomes).variance_of_one_unit()


# ---- Means and quotients of sums


@dataclass(frozen=True)
class _Ratios:
    """``scale`` times the mean over columns of the quotients of two weighted sums."""

    numerators: scipy.sparse.csr_matrix  # (K, N)
    denominators: scipy.sparse.csr_matrix  # (K, N)
    scale: float
    root: bool = False

    @classmethod
    def of(cls, outcomes: Outcomes) -> "_Ratios":
        arrays, settings, units = outcomes.arrays, outcomes.settings, np.arange(outcomes.count)
        match outcomes.kind:
            case "mean":
                column, image = np.zeros(outcomes.count, np.int64), units
                parts = arrays["hits"], np.full(outcomes.count, settings["trials"])
                columns, scale, root = 1, 100.0, False
            case "mean of groups":
                column, image = arrays["groups"], units
                parts = arrays["hits"], np.ones(outcomes.count)
                columns, scale, root = settings["groups"], 100.0, False
            case "ratio":
                column, image = np.zeros(outcomes.count, np.int64), units
                parts = arrays["numerator"], arrays["denominator"]
                columns, scale, root = 1, settings["scale"], settings["root"]
            case _:
                column, image = arrays["column"], arrays["image"]
                parts = arrays["numerator"], arrays["denominator"]
                columns, scale, root = settings["columns"], 100.0, False
        shape = (columns, outcomes.count)
        numerators, denominators = (
            scipy.sparse.csr_matrix((part.astype(np.float64), (column, image)), shape=shape)
            for part in parts
        )
        return cls(numerators, denominators, scale, root)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        total = self.denominators @ weights  # (K, R)
        found = self.numerators @ weights
        ratio = np.divide(found, total, out=np.full(total.shape, np.nan), where=total > 0)
        return self.scale * _mean_of_defined(np.sqrt(ratio) if self.root else ratio)

    def variance_of_one_unit(self) -> float:
        """Zero for errors that are no shares: they have no bound, and are never equal by chance."""
        if self.root or (self.numerators > self.denominators).nnz:
            return 0.0
        total = np.asarray(self.denominators.sum(axis=1)).ravel()
        squares = np.asarray(self.denominators.multiply(self.denominators).sum(axis=1)).ravel()
        known = total > 0
        shares = squares[known] / (total[known] * np.count_nonzero(known)) ** 2
        return float(self.scale**2 * shares.sum() / self.denominators.shape[1])


def _mean_of_defined(
    values: np.ndarray,  # (K, R)
    zeros: int = 0,  # further values that are 0
) -> np.ndarray:  # (R,)
    defined = ~np.isnan(values)
    count = defined.sum(axis=0) + zeros
    total = np.where(defined, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


# ---- Average precision


_LEVELS = {"11-point": np.arange(0.0, 1.1, 0.1), "101-point": RECALLS}
"""Recalls at which precision is averaged; 0.30000000000000004 and such are those of the evaluators."""


def interpolated_average_precision(
    found: np.ndarray,  # (H, R) weight of the positives up to each of the H points with positives
    retrieved: np.ndarray,  # (H, R) weight of everything up to there
    positives: np.ndarray,  # (R,) weight of all positives
    curve: str,
) -> np.ndarray:  # (R,) in [0, 1]; NaN without positives
    """The mean of the interpolated precision over recall, of R weightings.

    Between two points with positives precision only falls, so that its highest values are at these points.

    Args:
        curve: "area", "11-point", "101-point", or "11-point in integers", which compares recalls exactly.
    """
    precision = found / np.maximum(retrieved, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    total = np.maximum(positives, 1)
    if curve == "area":
        reached, levels = found / total, 1
    elif curve == "11-point in integers":
        reached, levels = 10 * found // total + 1, 11
    else:
        reached = np.searchsorted(_LEVELS[curve], found / total, side="right")
        levels = len(_LEVELS[curve])
    steps = np.diff(reached, axis=0, prepend=0) / levels
    return np.where(positives > 0, (steps * envelope).sum(axis=0), np.nan)


def _steps(
    image: np.ndarray,  # (D,) by rank
    ends: np.ndarray,  # (H,) ascending ranks
    units: int,
) -> scipy.sparse.csr_matrix:  # (H, N)
    """How many entries each image has after the previous end, up to and including each end.

    The product with weights, summed up, is the weight of everything up to each end. Ends are few where most
    entries are negative.
    """
    first = np.append(0, ends + 1)
    shape = (len(ends), units)
    return scipy.sparse.csr_matrix((np.ones(first[-1]), image[: first[-1]], first), shape=shape)


@dataclass(frozen=True)
class _Column:
    """One ranking of images; a point is a group of equal ranks that has positives."""

    everything: scipy.sparse.csr_matrix  # (H, N)
    positive: scipy.sparse.csr_matrix  # (H, N)

    @classmethod
    def of(cls, ranks: np.ndarray, labels: np.ndarray) -> "_Column":
        image = np.flatnonzero(labels)
        image = image[np.argsort(ranks[image], kind="stable")]
        ordered = ranks[image]
        positive = image[labels[image] == 1]
        groups = np.unique(ranks[positive])
        ends, last = (
            np.searchsorted(each, groups, side="right") - 1 for each in (ordered, ranks[positive])
        )
        return cls(_steps(image, ends, len(ranks)), _steps(positive, last, len(ranks)))

    def precisions(self, weights: np.ndarray, curve: str) -> np.ndarray:  # (R,)
        found, retrieved = (
            np.cumsum(steps @ weights, axis=0) for steps in (self.positive, self.everything)
        )
        positives = found[-1] if len(found) else np.zeros(weights.shape[1])
        return interpolated_average_precision(found, retrieved, positives, curve)


@dataclass(frozen=True)
class _Rankings:
    """The mean over columns of the average precision in percent; columns without positives do not count."""

    columns: tuple[_Column, ...]
    curve: str

    @classmethod
    def of(cls, outcomes: Outcomes) -> "_Rankings":
        ranks, labels = outcomes.arrays["ranks"], outcomes.arrays["labels"]
        columns = tuple(map(_Column.of, ranks.T, labels.T))
        return cls(columns, outcomes.settings["curve"])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        values = [column.precisions(weights, self.curve) for column in self.columns]
        return 100 * _mean_of_defined(np.stack(values))


class _Threshold(NamedTuple):
    """The hits of a class at one threshold."""

    points: np.ndarray  # (H,) which of the class's points are hits
    image: np.ndarray  # (H,)
    ignored: scipy.sparse.csr_matrix | None  # (H, N) ignored detections, as in ``_steps``


@dataclass(frozen=True)
class _Class:
    """The detections of one class by rank; a point is a hit at any threshold."""

    everything: scipy.sparse.csr_matrix  # (P, N)
    thresholds: tuple[_Threshold, ...]

    @classmethod
    def of(
        cls,
        image: np.ndarray,  # (D,)
        hit: np.ndarray,  # (T, D) bool
        ignored: np.ndarray,  # (T, D) bool
        units: int,
    ) -> "_Class":
        points = np.flatnonzero(hit.any(axis=0))
        thresholds = []
        for own_hit, own_ignored in zip(hit, ignored, strict=True):
            hits, skipped = np.flatnonzero(own_hit), np.flatnonzero(own_ignored)
            before = np.searchsorted(hits, skipped)
            skipped, before = skipped[before < len(hits)], before[before < len(hits)]
            matrix = scipy.sparse.csr_matrix(
                (np.ones(len(skipped)), (before, image[skipped])), shape=(len(hits), units)
            )
            own = np.searchsorted(points, hits)
            thresholds.append(_Threshold(own, image[hits], matrix if len(skipped) else None))
        return cls(_steps(image, points, units), tuple(thresholds))

    def precisions(self, weights: np.ndarray, positives: np.ndarray, curve: str) -> np.ndarray:
        """The mean over thresholds of the average precision, (R,)."""
        everything = np.cumsum(self.everything @ weights, axis=0)
        values = []
        for points, image, ignored in self.thresholds:
            retrieved = everything[points]
            if ignored is not None:
                retrieved -= np.cumsum(ignored @ weights, axis=0)
            found = np.cumsum(weights[image], axis=0)
            values.append(interpolated_average_precision(found, retrieved, positives, curve))
        mean: np.ndarray = np.mean(values, axis=0)
        return mean


@dataclass(frozen=True)
class _Detections:
    """The mean over thresholds and classes of the average precision of detections in percent."""

    classes: tuple[_Class, ...]
    objects: scipy.sparse.csr_matrix  # (K, N) number of objects
    curve: str
    zeros: int

    @classmethod
    def of(cls, outcomes: Outcomes) -> "_Detections":
        arrays, settings = outcomes.arrays, outcomes.settings
        objects = numbers_of_objects(outcomes)
        ends = np.cumsum(arrays["detections"], dtype=np.int64)
        starts = ends - arrays["detections"]
        thresholds = np.array(settings["chosen_thresholds"], np.uint16)[:, None]
        classes = []
        for label in settings["chosen_classes"]:
            part = slice(int(starts[label]), int(ends[label]))
            hit, ignored = (arrays[name][part] >> thresholds & 1 for name in ("hit", "ignored"))
            image = arrays["image"][part].astype(np.int64)
            classes.append(_Class.of(image, hit, ignored, outcomes.count))
        return cls(tuple(classes), objects, settings["curve"], settings["zeros"])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        positives = self.objects @ weights  # (K, R)
        values = [
            of_class.precisions(weights, own, self.curve)
            for of_class, own in zip(self.classes, positives, strict=True)
        ]
        return 100 * _mean_of_defined(np.stack(values), self.zeros)


def numbers_of_objects(outcomes: Outcomes) -> scipy.sparse.csr_matrix:  # (K, N)
    """The number of objects of each class that is scored, in each image."""
    arrays, settings = outcomes.arrays, outcomes.settings
    everything = scipy.sparse.csr_matrix(
        (
            arrays["objects"].astype(np.float64),
            (arrays["object_class"].astype(np.int64), arrays["object_image"].astype(np.int64)),
        ),
        shape=(settings["classes"], outcomes.count),
    )
    return everything[settings["chosen_classes"]]
