"""How one image, its boxes and its polygons are resized and flipped, to the bit as in Detectron2.

detectron2/data/transforms (ResizeTransform, ResizeShortestEdge) and fvcore's HFlipTransform.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from msbreg.data.scenes import Polygons


@dataclass(frozen=True)
class Geometry:
    """How one image is turned into another: resized to ``new``, then flipped.

    Attributes:
        old, new: (height, width).
        flip: horizontal, vertical or none.
    """

    old: tuple[int, int]
    new: tuple[int, int]
    flip: str = "none"

    def scaled(
        self,
        coordinates: np.ndarray,  # (N,) float64
        axis: int,  # 0 for x, 1 for y
    ) -> np.ndarray:  # (N,) float64
        """Coordinates along one axis in pixels of the new image."""
        side = 1 - axis
        out = coordinates * (self.new[side] * 1.0 / self.old[side])
        return self.new[side] - out if self._flips(axis) else out

    def boxes(
        self,
        boxes: np.ndarray,  # (N, 4) float64 XYXY
    ) -> np.ndarray:  # (N, 4) float64 XYXY
        """Boxes in pixels of the new image, clipped to it.

        The smaller edge comes first, as from fvcore's ``Transform.apply_box``, also where the data
        state it last.
        """
        out = np.empty_like(boxes)
        for axis in (0, 1):
            one, other = self.scaled(boxes[:, axis], axis), self.scaled(boxes[:, axis + 2], axis)
            out[:, axis], out[:, axis + 2] = np.minimum(one, other), np.maximum(one, other)
        height, width = self.new
        return np.minimum(out.clip(min=0), (width, height, width, height))

    def polygons(self, polygons: Polygons) -> tuple[np.ndarray, ...]:  # each (2M,) float64
        """Rings in pixels of the new image, not clipped."""
        out = []
        for ring in polygons:
            points = np.asarray(ring, dtype=np.float64)
            for axis in (0, 1):
                points[axis::2] = self.scaled(points[axis::2], axis)
            out.append(points)
        return tuple(out)

    def pixels(self, image: Image.Image) -> np.ndarray:  # (H, W, 3) or (H, W) uint8
        """The image itself: bilinear for pixels, nearest for an 8-bit mask (mode L)."""
        if self.new != self.old:
            how = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BILINEAR
            image = image.resize(self.new[::-1], how)
        out = np.asarray(image)
        if self.flip == "none":
            return out
        return out[:, ::-1] if self.flip == "horizontal" else out[::-1]

    def _flips(self, axis: int) -> bool:
        return self.flip == ("horizontal", "vertical")[axis]


def resized(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) with the shortest side as asked for, unless the longest would be too long.

    ResizeShortestEdge of detectron2/data/transforms/augmentation_impl.py, in its order of operations.
    """
    scale = shortest * 1.0 / min(height, width)
    new_height, new_width = scale * height, scale * width
    if height < width:
        new_height = shortest * 1.0
    else:
        new_width = shortest * 1.0
    if max(new_height, new_width) > longest:
        scale = longest * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)
