"""Sample: one image with its targets as a detector is fed."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """A scene after resizing and flipping.

    Attributes:
        scene: id of the scene.
        image: (3, H, W) uint8, channels in the order of the config's INPUT.FORMAT, not normalised.
        height, width: of the image as stored on disk (after its EXIF rotation), to scale results back.
        boxes: (N, 4) float32 XYXY in pixels of ``image``; None when testing.
        labels: (N,) int64; None when testing.
        polygons: N lists of rings (float64 arrays x0, y0, x1, y1, ...) in pixels of ``image``; None
            without polygon masks.
        bitmasks: (N, H, W) bool; None unless the config's INPUT.MASK_FORMAT is bitmask.
    """

    scene: str | int
    image: Tensor
    height: int
    width: int
    boxes: Tensor | None = None
    labels: Tensor | None = None
    polygons: tuple[tuple[np.ndarray, ...], ...] | None = None
    bitmasks: Tensor | None = None
