"""Slow, obvious versions of segmentation scores, sliding windows and schedules."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def class_ious(
    truths: Sequence[np.ndarray],  # each (H, W)
    predictions: Sequence[np.ndarray],
    classes: int,
) -> list[float]:
    """Percent; pixel by pixel over all maps. NaN for a class without a pixel."""
    both, either = [0] * classes, [0] * classes
    for truth, predicted in zip(truths, predictions, strict=True):
        for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            if t == 255:
                continue
            for k in range(classes):
                both[k] += t == k and p == k
                either[k] += t == k or p == k
    return [100 * b / e if e else math.nan for b, e in zip(both, either, strict=True)]


def far_from_boundaries(truth: np.ndarray, width: int) -> np.ndarray:
    """The map with 255 where a square of ``2 * width + 1`` pixels contains several labels."""
    out = truth.copy()
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            top, left = max(0, y - width), max(0, x - width)
            if len(np.unique(truth[top : y + width + 1, left : x + width + 1])) > 1:
                out[y, x] = 255
    return out


def sliding(
    score: Callable[[np.ndarray], np.ndarray],  # (h, w) -> (C, h, w)
    image: np.ndarray,  # (H, W)
    crop: int,
    stride: int,
) -> np.ndarray:  # (C, H, W)
    """For each pixel, the mean over all windows that contain it."""
    height, width = image.shape

    def starts(length: int) -> list[int]:
        if length <= crop:
            return [0]
        regular = list(range(0, length - crop, stride))
        return [*regular, length - crop]

    found: list[list[list[np.ndarray]]] = [[[] for _ in range(width)] for _ in range(height)]
    for top in starts(height):
        for left in starts(width):
            scores = score(image[top : top + crop, left : left + crop])
            for y in range(scores.shape[1]):
                for x in range(scores.shape[2]):
                    found[top + y][left + x].append(scores[:, y, x])
    return np.stack([np.stack([np.mean(at, axis=0) for at in row], 1) for row in found], 1)


def poly_rates(base: float, final: float, power: float, total: int) -> list[float]:
    """The recursion of mmengine's PolyLR: each rate from the one before, the last one is ``final``."""
    rates, last = [base], total - 1
    for step in range(1, total):
        factor = (1 - 1 / (last - step + 1)) ** power
        rates.append((rates[-1] - final) * factor + final)
    return rates
