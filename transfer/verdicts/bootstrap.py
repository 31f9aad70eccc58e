"""The paired bootstrap over test images (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

A resample draws N of the N test images with replacement; an image counts as often as it was drawn. All
networks are scored on the same resamples, so that what makes an image hard for all of them cancels in
differences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from transfer.verdicts.outcomes import Outcomes
from transfer.verdicts.weighted_scores import variance_of_one_unit, weighted_score

DRAWS = 2000
"""Resamples; the standard error of a bootstrap standard error is then 1.6 % of it."""
_NUMBERS = 2**20
"""Weights in memory at a time."""


def unit_weights(
    units: int, draws: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:  # parts of (N, draws), float64
    """How often each unit is drawn in each resample: multinomial counts, in parts that fit into memory.

    >>> parts = list(unit_weights(5, 3, np.random.default_rng(0)))
    >>> [part.sum(axis=0).tolist() for part in parts]
    [[5.0, 5.0, 5.0]]
    """
    at_once = max(1, _NUMBERS // units)
    for start in range(0, draws, at_once):
        columns = min(at_once, draws - start)
        drawn = generator.integers(units, size=(units, columns))
        counts = np.bincount(
            (drawn * columns + np.arange(columns)).ravel(), minlength=units * columns
        )
        yield counts.reshape(units, columns).astype(np.float64)


@dataclass(frozen=True)
class Resampled:
    """A score of one network, and the score on each resample of the test images.

    Attributes:
        of: what it was computed from, without the arrays.
        value: the score.
        scores: (draws,) NaN where the score is undefined.
        one_unit: ``variance_of_one_unit``.
    """

    of: Outcomes
    value: float
    scores: np.ndarray = field(repr=False)
    one_unit: float


def resample(
    outcomes: Sequence[Outcomes],  # of networks on the same units
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Resampled]:
    """Score each network on the same resamples: those of the number of units, the draws and the seed."""
    if not outcomes:
        return []
    units = outcomes[0].count
    statistics = [weighted_score(each) for each in outcomes]
    scores = np.concatenate(
        [
            np.stack([statistic(weights) for statistic in statistics])
            for weights in unit_weights(units, draws, np.random.default_rng(seed))
        ],
        axis=1,
    )
    once = np.ones((units, 1))
    return [
        Resampled(
            replace(each, arrays={}), float(statistic(once)[0]), own, variance_of_one_unit(each)
        )
        for each, statistic, own in zip(outcomes, statistics, scores, strict=True)
    ]
