"""Scene, Instance, Prediction: what detectors read and return, whatever the data set and engine.

Conventions, stated here and nowhere else: boxes are XYXY, absolute pixels, floats, 0-based, the right
and bottom edges exclusive (a box over the whole image is 0, 0, width, height); labels are 0-based
indices into ``Scenes.classes``; sizes and coordinates are those of the image as it is shown, after its
EXIF rotation; masks are polygons or COCO run lengths in image coordinates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]
Polygons = tuple[tuple[float, ...], ...]
"""Rings x0, y0, x1, y1, ...; their union is the object."""
RunLengths = dict[str, Any]
"""COCO's ``{"size": [height, width], "counts": ...}``, compressed (str) or not (list)."""


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        box: of the object.
        label: index into the scenes' classes.
        mask: None where the data have boxes only; no ring (``()``) where none of the object's polygons
            has three points: Detectron2 does not train on such an object, but scores it.
        area: of the mask in pixels as the data state it; None where they do not.
        crowd: a group that is not separated (COCO's iscrowd): neither trained on nor a miss.
        difficult: VOC's flag: trained on, but neither a hit nor a miss in testing.
        truncated: VOC's flag; stated, not used.
    """

    box: Box
    label: int
    mask: Polygons | RunLengths | None = None
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class Scene:
    """One image and its annotations.

    Attributes:
        id: of the image in its data set; unique within it.
        file: the image.
        height, width: in pixels, as the annotations state them.
        instances: in the order of the annotations; may be empty.
    """

    id: str | int
    file: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Scenes:
    """One split.

    Attributes:
        name: such as voc_2007_test.
        classes: names, in the order of the labels.
        scenes: in the order of the data set's list.
        category_ids: the data set's own id of each label (COCO's have gaps); empty for VOC.
        annotations: the file or folder that evaluation reads, for the record.
        year: of a VOC split, which decides the default of its metric; None otherwise.
        doubts: warnings for the record: what is odd in the data, and what becomes of it.
        oddities: kind -> count of what the reader accepted although it is odd, for the record.
        sized_boxes: whether the data state boxes as x, y, width, height (COCO's JSON does).
    """

    name: str
    classes: tuple[str, ...]
    scenes: tuple[Scene, ...]
    category_ids: tuple[int, ...] = ()
    annotations: Path | None = None
    year: int | None = None
    doubts: tuple[str, ...] = ()
    oddities: Mapping[str, int] = field(default_factory=dict)
    sized_boxes: bool = False


@dataclass(frozen=True)
class Prediction:
    """What a detector predicts for one scene, best first.

    Attributes:
        scene: id of the scene.
        boxes: (N, 4) float32, in pixels of the scene's image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64.
        masks: N compressed run lengths of the image's size; None from a detector without masks.
    """

    scene: str | int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[RunLengths, ...] | None = field(default=None)
