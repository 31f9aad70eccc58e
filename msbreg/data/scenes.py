"""Scene, Instance, Prediction: inputs and outputs of detectors, for all data sets and engines.

Conventions: boxes are XYXY in absolute pixels, floats, 0-based, with exclusive right and bottom edges (a box
around the whole image is 0, 0, width, height). Labels are 0-based indices into ``Scenes.classes``. Sizes and
coordinates refer to the upright image, after its EXIF rotation. Masks are polygons or COCO run lengths in
image coordinates.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]
Polygons = tuple[tuple[float, ...], ...]
"""Rings x0, y0, x1, y1, ...; the object is their union."""
RunLengths = dict[str, Any]
"""COCO's ``{"size": [height, width], "counts": ...}``; counts are a string if compressed, else a list."""
Keypoints = tuple[float, ...]
"""x0, y0, visibility0, x1, y1, visibility1, ...; visibility is 0 (not labeled), 1 (hidden) or 2 (visible)."""


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        box: bounding box of the object.
        label: index into ``Scenes.classes``.
        mask: None if the data set has only boxes. Empty (``()``) if no polygon of the object has three
            points: Detectron2 does not train on such an object, but includes it in scoring.
        area: area of the mask in pixels as given in the annotations; None if not given.
        crowd: COCO's iscrowd, a group of objects: ignored in training, and never counted as missed.
        difficult: VOC's flag: used in training, but counted neither as a hit nor as a miss in testing.
        truncated: VOC's flag; not used.
        keypoints: None if the object has none.
    """

    box: Box
    label: int
    mask: Polygons | RunLengths | None = None
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    truncated: bool = False
    keypoints: Keypoints | None = None


@dataclass(frozen=True)
class Scene:
    """One image and its annotations.

    Attributes:
        id: id of the image; unique within its data set.
        file: path of the image.
        height, width: size in pixels, as given in the annotations.
        instances: objects in the order of the annotations; may be empty.
    """

    id: str | int
    file: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class KeypointSet:
    """The K keypoints of a data set.

    Attributes:
        names: name of each keypoint.
        skeleton: pairs of indices to connect in drawings.
        sigmas: standard deviation of human annotations of each keypoint, as a fraction of the object's scale
            (https://cocodataset.org/#keypoints-eval); empty for those of COCO's persons.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each keypoint, the index of the one that it becomes in a mirrored image.

        Names that differ only in ``left`` and ``right`` are exchanged; other keypoints stay.

        >>> KeypointSet(("nose", "left_eye", "right_eye")).mirror
        (0, 2, 1)
        """
        index = {name: i for i, name in enumerate(self.names)}
        other = {"left": "right", "right": "left"}
        opposite = [re.sub("left|right", lambda m: other[m[0]], name) for name in self.names]
        return tuple(index.get(name, i) for i, name in enumerate(opposite))


@dataclass(frozen=True)
class Federation:
    """What is annotated where, in a data set that annotates each class in some of its images only.

    Attributes:
        frequencies: for each label, "r" (rare), "c" (common) or "f" (frequent) in the training images.
        absent: id of a scene -> labels that were searched in it and not found.
        incomplete: id of a scene -> labels of which it shows more objects than are annotated.
    """

    frequencies: tuple[str, ...]
    absent: Mapping[str | int, frozenset[int]]
    incomplete: Mapping[str | int, frozenset[int]]


@dataclass(frozen=True)
class Scenes:
    """One split of a data set.

    Attributes:
        name: name of the split, such as voc_2007_test.
        classes: class names, indexed by label.
        scenes: images in the order of the data set.
        category_ids: original category id of each label (COCO's have gaps); empty for VOC.
        annotations: file or folder of the annotations, for the record.
        year: year of a VOC split, which determines its default metric; None for other data sets.
        warnings: irregularities in the data and how they are handled, for the record.
        oddities: kind -> count of accepted irregularities, for the record.
        sized_boxes: whether the annotations give boxes as x, y, width, height, as in COCO.
        keypoints: the keypoints that objects have; None in a data set without.
        federation: None unless the data set is federated, like LVIS.
    """

    name: str
    classes: tuple[str, ...]
    scenes: tuple[Scene, ...]
    category_ids: tuple[int, ...] = ()
    annotations: Path | None = None
    year: int | None = None
    warnings: tuple[str, ...] = ()
    oddities: Mapping[str, int] = field(default_factory=dict)
    sized_boxes: bool = False
    keypoints: KeypointSet | None = None
    federation: Federation | None = None


@dataclass(frozen=True)
class Prediction:
    """The predictions of a detector for one scene, sorted by descending score.

    Attributes:
        scene: id of the scene.
        boxes: (N, 4) float32, XYXY in pixels of the image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64.
        masks: N compressed run lengths of the size of the image; None if the detector predicts no masks.
        keypoints: (N, K, 3) float32, x, y in pixels of the image and a score above 0; None if the detector
            predicts none.
    """

    scene: str | int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[RunLengths, ...] | None = field(default=None)
    keypoints: np.ndarray | None = None
