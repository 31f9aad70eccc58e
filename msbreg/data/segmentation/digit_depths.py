"""Depths of the embedded digits, from what they are and how tall they appear.

Digit k is taken to be 1 + k / 2 units tall, so that its distance follows from its height in the image, as for
things of known size seen by a camera. The depth of the background is unknown.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from msbreg.data.catalog import load_scenes
from msbreg.data.scenes import Scene
from msbreg.data.segmentation.depth_maps import DepthMaps, checked, open_depth_maps
from msbreg.data.segmentation.label_maps import LabelMaps
from msbreg.data.segmentation.map_sources import open_label_maps

FOCAL_LENGTH = 24.0
"""Height in pixels of one unit at a distance of one meter."""


@dataclass(frozen=True)
class DigitDepths(DepthMaps):
    """The scenes of one split of the embedded VOC layout.

    Attributes:
        maps: the images and their label maps.
        scenes: the boxes of the digits, in the same order.
    """

    maps: LabelMaps
    scenes: tuple[Scene, ...]

    @property
    def where(self) -> str:
        return self.maps.where

    def __len__(self) -> int:
        return len(self.maps)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        return self.maps.image(i)

    def depth(self, i: int) -> np.ndarray:  # (H, W) float32
        labels = self.maps.label(i)
        return checked(digit_depth(labels, self.scenes[i]), labels.shape, self.name(i))

    def entry(self, i: int) -> str:
        return self.maps.entry(i)

    def name(self, i: int) -> str:
        return self.maps.name(i)

    def cache_key(self) -> str:
        return f"digit depths of {self.maps.cache_key()}"

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        chosen = tuple(self.scenes[i] for i in keep.tolist())
        return replace(self, maps=self.maps.select(keep), scenes=chosen)


def digit_depth(
    labels: np.ndarray,  # (H, W) uint8: 0 for the background, 1 + digit, or VOID
    scene: Scene,
) -> np.ndarray:  # (H, W) float32
    """Meters to each pixel of a digit, 0 elsewhere. Where two equal digits overlap, the taller counts."""
    found = np.zeros(labels.shape, np.float32)
    by_height = sorted(scene.instances, key=lambda instance: instance.box[3] - instance.box[1])
    for instance in by_height:  # the tallest last
        x0, y0, x1, y1 = instance.box
        rows, columns = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        inside = labels[rows, columns] == 1 + instance.label
        found[rows, columns][inside] = (1 + instance.label / 2) * FOCAL_LENGTH / (y1 - y0)
    return found


def open_digit_depths(split: str) -> DigitDepths:
    """One split of the embedded data: train, val, trainval or test.

    Raises:
        UserError: there is no such split.
    """
    maps = open_label_maps("digits", split)
    scenes = {scene.file.stem: scene for scene in load_scenes(f"digits_voc_{split}").scenes}
    ordered = tuple(scenes[Path(path).stem] for path in maps.paths)
    return DigitDepths(None, (), maps.fingerprint, maps=maps, scenes=ordered)


def open_depths(data: str, split: str) -> DepthMaps:
    """One split of the embedded digits, or of the data that ``open_depth_maps`` reads.

    Raises:
        UserError: as ``open_depth_maps``.
    """
    return open_digit_depths(split) if data == "digits" else open_depth_maps(data, split)
