"""Scores of weighted test images: an image of weight w counts as w copies of it.

With weights of one the score is that of the record; with the counts of a resample it is the score of that
resample. Whatever does not depend on the weights, such as the ranking, is computed once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from transfer.scoring.scores import RECALLS
from transfer.verdicts.outcomes import Outcomes

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (R, N), non-negative integers as float64 -> scores (R,); NaN where undefined."""


def weighted_score(outcomes: Outcomes) -> Statistic:
    """The score as a function of the weights of the units.

    >>> from transfer.scoring.scores import DataId
    >>> hits = {"hits": np.array([1, 1, 0, 0], np.uint8)}
    >>> top1 = Outcomes("top-1", "", DataId("digits", "val"), "", 4, "mean", hits, {"trials": 1})
    >>> weighted_score(top1)(np.array([[1.0, 1, 1, 1], [2, 1, 1, 0]]))
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
    return float(weighted_score(outcomes)(np.ones((1, outcomes.count)))[0])


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
            objects = _Detections.of(outcomes).objects
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
        columns = np.ascontiguousarray(weights.T)
        total = self.denominators @ columns  # (K, R)
        found = self.numerators @ columns
        ratio = np.divide(found, total, out=np.full(total.shape, np.nan), where=total > 0)
        return self.scale * _mean_of_defined(np.sqrt(ratio) if self.root else ratio)

    def variance_of_one_unit(self) -> float:
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
    found: np.ndarray,  # (R, H) weight of the positives up to each of the H points with positives
    retrieved: np.ndarray,  # (R, H) weight of everything up to there
    positives: np.ndarray,  # (R,) weight of all positives
    curve: str,
) -> np.ndarray:  # (R,) in [0, 1]; NaN without positives
    """The mean of the interpolated precision over recall, of R weightings.

    Precision between two positives only falls, so that its highest values are at positives.

    Args:
        curve: "area", "11-point", "101-point", or "11-point in integers", which compares recalls exactly.
    """
    precision = found / np.maximum(retrieved, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = np.maximum(positives, 1)[:, None]
    if curve == "area":
        reached, levels = found / total, 1
    elif curve == "11-point in integers":
        reached, levels = 10 * found // total + 1, 11
    else:
        reached = np.searchsorted(_LEVELS[curve], found / total, side="right")
        levels = len(_LEVELS[curve])
    steps = np.diff(reached, axis=1, prepend=0) / levels
    return np.where(positives > 0, (steps * envelope).sum(axis=1), np.nan)


@dataclass(frozen=True)
class _Column:
    """One ranking: the images from the first to the last rank, and where its points with positives are."""

    image: np.ndarray  # (n,)
    positive_image: np.ndarray  # (P,) by rank
    end: np.ndarray  # (H,) last rank of each group of equal ranks that has positives
    last: np.ndarray  # (H,) index of the last positive of the group

    @classmethod
    def of(cls, ranks: np.ndarray, labels: np.ndarray) -> "_Column":
        image = np.flatnonzero(labels)
        image = image[np.argsort(ranks[image], kind="stable")]
        ordered, positive = ranks[image], labels[image] == 1
        positions = np.flatnonzero(positive)
        groups, first = np.unique(ordered[positions], return_index=True)
        end = np.searchsorted(ordered, groups, side="right") - 1
        return cls(image, image[positions], end, np.append(first[1:], len(positions)) - 1)


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
        precisions = []
        for column in self.columns:
            retrieved = weights[:, column.image].cumsum(axis=1)[:, column.end]
            found = weights[:, column.positive_image].cumsum(axis=1)
            positives = found[:, -1] if found.shape[1] else np.zeros(len(weights))
            at_points = found[:, column.last]
            precisions.append(
                interpolated_average_precision(at_points, retrieved, positives, self.curve)
            )
        return 100 * _mean_of_defined(np.stack(precisions))


@dataclass(frozen=True)
class _Class:
    """The detections of one class by rank, and where the hits and the ignored ones are at each threshold."""

    image: np.ndarray  # (D,)
    hits: tuple[np.ndarray, ...]
    ignored: tuple[np.ndarray, ...]

    def precisions(self, weights: np.ndarray, positives: np.ndarray, curve: str) -> np.ndarray:
        """The mean over thresholds of the average precision, (R,)."""
        own = weights[:, self.image]
        everything = own.cumsum(axis=1)
        values = []
        for hits, ignored in zip(self.hits, self.ignored, strict=True):
            found = own[:, hits].cumsum(axis=1)
            retrieved = everything[:, hits]
            if len(ignored):
                before = np.searchsorted(ignored, hits)
                skipped = own[:, ignored].cumsum(axis=1)
                retrieved = retrieved - np.pad(skipped, ((0, 0), (1, 0)))[:, before]
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
        ends = np.cumsum(arrays["detections"], dtype=np.int64)
        starts = ends - arrays["detections"]
        entries = arrays["objects"].astype(np.float64)
        objects = scipy.sparse.csr_matrix(
            (entries, (arrays["object_class"], arrays["object_image"])),
            shape=(settings["classes"], outcomes.count),
        )
        chosen = settings["chosen_classes"]
        classes = []
        for label in chosen:
            part = slice(int(starts[label]), int(ends[label]))
            hit, ignored = (
                tuple(
                    np.flatnonzero(arrays[name][part] >> t & 1)
                    for t in settings["chosen_thresholds"]
                )
                for name in ("hit", "ignored")
            )
            classes.append(_Class(arrays["image"][part], hit, ignored))
        return cls(tuple(classes), objects[chosen], settings["curve"], settings["zeros"])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        positives = self.objects @ np.ascontiguousarray(weights.T)  # (K, R)
        values = [
            of_class.precisions(weights, own, self.curve)
            for of_class, own in zip(self.classes, positives, strict=True)
        ]
        return 100 * _mean_of_defined(np.stack(values), self.zeros)
