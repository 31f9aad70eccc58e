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


def patch_shares(labels: np.ndarray, grid: int, classes: int) -> np.ndarray:
    """The share of each class in each patch, pixel by pixel; 255 does not count."""
    counts = np.zeros((grid * grid, classes))
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            if labels[y, x] != 255:
                row, column = int((y + 0.5) / height * grid), int((x + 0.5) / width * grid)
                counts[row * grid + column, labels[y, x]] += 1
    return np.stack([c / c.sum() if c.sum() else c for c in counts])


def labels_by_patches(
    query: np.ndarray,  # (grid * grid, D)
    features: np.ndarray,  # (M, D)
    labels: np.ndarray,  # (M, C)
    k: int,
    temperature: float,
    size: tuple[int, int],
) -> np.ndarray:  # (H, W)
    """Dense kNN of one image: each patch asks all of the memory, each pixel the four patches around it."""
    grid = math.isqrt(len(query))
    soft = np.zeros((grid, grid, labels.shape[1]))
    for number, own in enumerate(query):
        cosines = [float(own @ f / np.linalg.norm(own) / np.linalg.norm(f)) for f in features]
        chosen = sorted(range(len(features)), key=lambda m: -cosines[m])[:k]
        weights = [math.exp(cosines[m] / temperature) for m in chosen]
        soft[divmod(number, grid)] = sum(
            w / sum(weights) * labels[m] for w, m in zip(weights, chosen, strict=True)
        )
    out = np.zeros(size, int)
    for y in range(size[0]):
        for x in range(size[1]):
            # Positions in units of patches, from the center of the first; borders repeat.
            v = min(max((y + 0.5) / size[0] * grid - 0.5, 0), grid - 1)
            u = min(max((x + 0.5) / size[1] * grid - 0.5, 0), grid - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, grid - 1), min(left + 1, grid - 1)
            above = soft[top, left] * (1 - u + left) + soft[top, right] * (u - left)
            below = soft[bottom, left] * (1 - u + left) + soft[bottom, right] * (u - left)
            out[y, x] = np.argmax(above * (1 - v + top) + below * (v - top))
    return out
