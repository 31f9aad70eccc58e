"""Slow, obvious bicubic interpolation of a grid of position embeddings, in float64."""

import math

import numpy as np


def cubic(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def plain_weights(old: int, new: int, factor: float) -> np.ndarray:  # (new, old)
    """Four taps with a = -0.75, as OpenCV and PyTorch; taps beyond the border repeat its value."""
    weights = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) / factor - 0.5
        first = math.floor(center)
        for tap in range(first - 1, first + 3):
            weights[i, min(max(tap, 0), old - 1)] += cubic(center - tap, -0.75)
    return weights


def antialiased_weights(old: int, new: int) -> np.ndarray:  # (new, old)
    """A kernel with a = -0.5 as wide as the reduction, as Pillow; taps beyond the border are left out."""
    scale = max(old / new, 1.0)
    weights = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * old / new
        first = max(int(center - 2 * scale + 0.5), 0)
        last = min(int(center + 2 * scale + 0.5), old)
        for tap in range(first, last):
            weights[i, tap] = cubic((tap + 0.5 - center) / scale, -0.5)
        weights[i] /= weights[i].sum()
    return weights


def resized(grid: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """A (M, M, D) grid as (height, width, D)."""
    old = len(grid)
    if how == "antialiased":
        rows, columns = antialiased_weights(old, height), antialiased_weights(old, width)
    else:
        extra = 0.1 if how == "offset" else 0.0
        rows = plain_weights(old, height, (height + extra) / old)
        columns = plain_weights(old, width, (width + extra) / old)
    return np.einsum("hi,wj,ijd->hwd", rows, columns, grid.astype(np.float64))
