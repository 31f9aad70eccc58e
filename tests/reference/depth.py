"""Slow, obvious versions of depth metrics."""

import math
from collections.abc import Sequence

import numpy as np


def metrics(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> dict[str, float]:
    """BYOL's metrics, pixel by pixel over all maps; a truth of 0 is unknown."""
    ratios, squares, relative = [], [], []
    for truth, predicted in zip(truths, predictions, strict=True):
        for d, found in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            if d > 0:
                ratios.append(max(d / found, found / d))
                squares.append((found - d) ** 2)
                relative.append(abs(found - d) / d)
    within = {
        f"within_1.25{suffix}": 100 * sum(r < bound for r in ratios) / len(ratios)
        for suffix, bound in (("", 1.25), ("^2", 1.25**2), ("^3", 1.25**3))
    }
    rms = math.sqrt(sum(squares) / len(squares))
    return within | {"rms": rms, "rel": sum(relative) / len(relative)}
