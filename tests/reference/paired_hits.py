"""McNemar's test and Tango's interval by enumeration and by search over grids."""

import math

import numpy as np


def mcnemar(first_only, second_only):
    """Twice the probability of so few heads among fair coins, at most 1."""
    coins = first_only + second_only
    fewer = min(first_only, second_only)
    return min(1.0, 2 * sum(math.comb(coins, heads) for heads in range(fewer + 1)) / 2**coins)


def score_interval(first_only, second_only, images, quantile):
    """The differences on a grid of 4,001 that the score test accepts; likelihoods on a grid as well."""
    accepted = [
        difference
        for difference in np.linspace(-1, 1, 4001)
        if _statistic(difference, first_only, second_only, images) <= quantile
    ]
    return min(accepted), max(accepted)


def _statistic(difference, first_only, second_only, images):
    """|observed - expected| in standard errors; the nuisance share maximizes the likelihood."""
    shares = np.linspace(max(0, -difference), (1 - difference) / 2, 4001)[1:-1]
    if not len(shares) or abs(difference) == 1:
        return 0.0 if (first_only - second_only) / images == difference else math.inf
    same = images - first_only - second_only
    likelihood = (
        first_only * np.log(shares + difference)
        + second_only * np.log(shares)
        + same * np.log(1 - 2 * shares - difference)
    )
    share = shares[np.argmax(likelihood)]
    variance = (2 * share + difference - difference**2) / images
    return abs((first_only - second_only) / images - difference) / math.sqrt(variance)
