"""Cells and places of keypoints, one keypoint at a time, in double precision."""

import math

import numpy as np


def cell(keypoint, box, side):
    """The cell of a keypoint in a grid over a box; None if it is not labeled or outside."""
    places = []
    for axis in (0, 1):
        low, high = box[axis], box[axis + 2]
        inside = low <= keypoint[axis] <= high
        if not inside or keypoint[2] == 0:
            return None
        index = math.floor((keypoint[axis] - low) * side / (high - low))
        places.append(side - 1 if keypoint[axis] == high else index)
    return places[1] * side + places[0]


def place(logits, box, resample):
    """x, y and score of a keypoint from its (S, S) map; ``resample`` takes a map and a size."""
    width, height = (max(box[axis + 2] - box[axis], 1) for axis in (0, 1))
    size = (math.ceil(height), math.ceil(width))
    fine = resample(logits, size)
    row, column = np.unravel_index(fine.argmax(), size)
    score = math.exp(fine.max()) / np.exp(logits).sum()
    return [
        (column + 0.5) * width / size[1] + box[0],
        (row + 0.5) * height / size[0] + box[1],
        score,
    ]
