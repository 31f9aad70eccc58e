"""Compare two classifiers on the same images: the difference of their accuracies with an interval."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two accuracies on the same images.

    Attributes:
        images: number of images.
        first_only: images that only the first classifier gets right.
        second_only: images that only the second classifier gets right.
        value: accuracy of the first minus that of the second, in percentage points.
        low, high: interval for the difference, in percentage points.
        p: two-sided p-value of McNemar's exact test that both are equally accurate.
        confidence: of the interval, in (0, 1).
    """

    images: int
    first_only: int
    second_only: int
    value: float
    low: float
    high: float
    p: float
    confidence: float

    @property
    def stderr(self) -> float:
        """Standard error of ``value`` over samples of the images, in percentage points."""
        differing = (self.first_only + self.second_only) / self.images
        return 100 * math.sqrt((differing - (self.value / 100) ** 2) / self.images)


def paired_difference(
    first: np.ndarray,  # (N,) bool: whether the first classifier is right
    second: np.ndarray,  # (N,) bool
    *,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare two classifiers by the images on which exactly one of them is right.

    If both are equally accurate, each of these images is a fair coin (McNemar's exact test). The interval is
    the score interval for paired proportions (Tango, Statistics in Medicine 17, 1998), which is
    also valid for few images and for classifiers that never differ.

    >>> first, second = np.array([1, 1, 1, 1, 0], bool), np.array([0, 0, 0, 1, 1], bool)
    >>> found = paired_difference(first, second)
    >>> found.value, round(found.p, 3)  # 3 heads of 4 coins: p = 10 / 16
    (40.0, 0.625)

    Raises:
        ValueError: there are no images, or the arrays have different lengths.
    """
    if not len(first) or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} images; expected equal numbers above 0")
    images = len(first)
    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = _score_interval(ours, theirs, images, float(norm.ppf((1 + confidence) / 2)))
    return PairedDifference(
        images=images,
        first_only=ours,
        second_only=theirs,
        value=100 * (ours - theirs) / images,
        low=100 * low,
        high=100 * high,
        p=float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0,
        confidence=confidence,
    )


def _score_interval(ours: int, theirs: int, images: int, quantile: float) -> tuple[float, float]:
    """The differences, in [-1, 1], whose score test has a statistic within the quantiles."""
    found, end = (ours - theirs) / images, 1 - 1e-9
    statistic = partial(_score_statistic, ours=ours, theirs=theirs, images=images)
    low = -1.0 if found == -1 else brentq(lambda d: statistic(d) - quantile, -end, found)
    high = 1.0 if found == 1 else brentq(lambda d: statistic(d) + quantile, found, end)
    return float(low), float(high)


def _score_statistic(difference: float, *, ours: int, theirs: int, images: int) -> float:
    """Tango's Eq. 6: how far the data are from a difference, in standard errors; decreasing in it."""
    # The most likely share of images that only the second gets right, given the difference.
    a = 2 * images
    b = (2 * images - ours + theirs) * difference - ours - theirs
    c = -theirs * difference * (1 - difference)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = images * (2 * share + difference * (1 - difference))
    distance = ours - theirs - images * difference
    return distance / math.sqrt(variance) if distance else 0.0
