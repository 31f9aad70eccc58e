"""Intersection over union of predicted and true label maps, from totals over a whole data set."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from msbreg.data.segmentation.label_maps import VOID

EXACT = 2**24
"""Pixels that OpenCV's histograms, which are float32, count exactly."""


def confusion(
    truth: np.ndarray,  # (H, W) uint8
    predicted: np.ndarray,  # (H, W) uint8
    classes: int,
) -> np.ndarray:  # (C, C) int64
    """Number of pixels of each true class (row) and predicted class (column).

    Pixels with another value than a class in either map, such as VOID, are not counted.

    >>> confusion(np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 1]], np.uint8), 2)
    array([[1, 0],
           [1, 0]])
    """
    total = np.zeros((classes, classes), np.int64)
    rows = max(1, EXACT // max(1, truth.shape[1]))
    for first in range(0, truth.shape[0], rows):
        part = [np.ascontiguousarray(m[first : first + rows]) for m in (truth, predicted)]
        found = cv2.calcHist(part, [0, 1], None, [classes, classes], [0, classes, 0, classes])
        total += found.astype(np.int64)
    return total


def overlaps(
    matrix: np.ndarray,  # (C, C) confusion of one image
) -> np.ndarray:  # (2, C) int64
    """Pixels of each class in both maps, and in either."""
    hits = np.diag(matrix)
    return np.stack([hits, matrix.sum(0) + matrix.sum(1) - hits])


def without_boundaries(
    truth: np.ndarray,  # (H, W) uint8
    width: int,
) -> np.ndarray:  # (H, W) uint8
    """The label map with VOID wherever another label is at most ``width`` pixels away in both directions."""
    if not width:
        return truth
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return np.where(cv2.dilate(truth, square) != cv2.erode(truth, square), VOID, truth)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of one split.

    Attributes:
        classes: names of the C classes.
        matrix: (C, C) int64, ``confusion`` summed over all images.
        by_image: (N, 2, C) ``overlaps`` of each image; None if they were not kept.
    """

    classes: tuple[str, ...]
    matrix: np.ndarray
    by_image: np.ndarray | None = None

    @property
    def iou(self) -> np.ndarray:  # (C,)
        """Intersection over union of each class in percent; NaN for a class that is neither true nor
        predicted anywhere."""
        hits, union = overlaps(self.matrix)
        return np.where(union > 0, 100 * hits / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes with an IoU; NaN if there is none."""
        known = self.iou[~np.isnan(self.iou)]
        return float(known.mean()) if len(known) else math.nan

    @property
    def pixel_accuracy(self) -> float:
        """Percentage of the labeled pixels with the true class; NaN if there are none."""
        total = int(self.matrix.sum())
        return 100 * int(np.trace(self.matrix)) / total if total else math.nan

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without any pixel, which the mean leaves out."""
        return tuple(n for n, v in zip(self.classes, self.iou, strict=True) if math.isnan(v))

    def table(self) -> list[dict[str, str | int | float | None]]:
        """One row per class: true and predicted pixels, IoU in percent (None if undefined)."""
        true, predicted = self.matrix.sum(1), self.matrix.sum(0)
        return [
            {
                "class": name,
                "pixels": int(true[k]),
                "predicted": int(predicted[k]),
                "IoU": None if math.isnan(value) else float(value),
            }
            for k, (name, value) in enumerate(zip(self.classes, self.iou, strict=True))
        ]
