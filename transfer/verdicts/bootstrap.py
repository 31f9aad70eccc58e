"""The paired bootstrap over test images (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

A resample draws N of the N test images with replacement; an image counts as often as it was drawn. All
networks are scored on the same resamples, so that what makes an image hard for all of them cancels in
differences.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from transfer.verdicts.outcomes import Outcomes
from transfer.verdicts.weighted_scores import weighted_score

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


def resampled_scores(
    outcomes: Sequence[Outcomes],  # of S networks on the same units
    draws: int,
    generator: np.random.Generator,
) -> np.ndarray:  # (S, draws), NaN where a score is undefined
    """The score of each network on each resample."""
    statistics = [weighted_score(each) for each in outcomes]
    parts = unit_weights(outcomes[0].count, draws, generator)
    return np.concatenate(
        [np.stack([statistic(weights) for statistic in statistics]) for weights in parts], axis=1
    )
