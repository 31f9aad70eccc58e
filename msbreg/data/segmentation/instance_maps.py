"""Label maps drawn from the masks of COCO instances: background, then the categories by ascending id.

Large objects are drawn first, so that the smaller of two overlapping objects is on top. Crowds are void where
no object is drawn. Images and masks are upright, as everywhere with boxes.
"""

import hashlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from msbreg.data.annotated_images import read_upright, upright_size
from msbreg.data.classification.file_lists import WrongLayout, first_folder
from msbreg.data.coco import coco_scenes
from msbreg.data.run_lengths import all_to_rle, area, decode, union
from msbreg.data.scenes import Scene
from msbreg.data.segmentation.label_maps import VOID, LabelMaps
from msbreg.data.segmentation.voc_maps import BACKGROUND
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class InstanceMaps(LabelMaps):
    """The images of an instances JSON.

    Attributes:
        scenes: the images with their objects.
    """

    scenes: tuple[Scene, ...] = ()

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode image i upright."""
        return np.asarray(read_upright(self.scenes[i]))

    def label(self, i: int) -> np.ndarray:  # (H, W) uint8
        """Draw the label map of image i."""
        return draw_instances(self.scenes[i])

    def map_name(self, i: int) -> str:
        """The annotation of image i, for messages."""
        return f"{self.map_root}: image {self.scenes[i].id!r}"

    def sizes(self, i: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the upright image i and of its label map."""
        scene = self.scenes[i]
        return upright_size(scene.file), (scene.height, scene.width)

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        scenes = tuple(self.scenes[i] for i in keep.tolist())
        return replace(super().select(keep), scenes=scenes)


def draw_instances(scene: Scene) -> np.ndarray:  # (H, W) uint8
    """The label map of a scene: 0 is the background, k + 1 the label k. Boxes without a mask are left out."""
    labels = np.zeros((scene.height, scene.width), np.uint8)
    drawn = [i for i in scene.instances if i.mask is not None]
    masks = all_to_rle([i.mask for i in drawn if i.mask is not None], scene.height, scene.width)
    largest = np.argsort(-area(masks), kind="stable").tolist() if masks else []
    values = [VOID if one.crowd else one.label + 1 for one in drawn]
    order = sorted(largest, key=lambda i: values[i] != VOID)  # crowds first
    for value, group in itertools.groupby(order, key=values.__getitem__):
        labels[decode(union([masks[i] for i in group]))] = value
    return labels


def open_instance_maps(root: Path, split: str) -> InstanceMaps:
    """Label maps of ROOT/annotations/instances_SPLIT.json, or of SPLIT2017; images are in ROOT/SPLIT.

    Raises:
        WrongLayout: ROOT has another layout.
        UserError: the split is missing, or its annotations are malformed.
    """
    base = first_folder([root, root / "coco"], "annotations")
    names = _names(base) if base else []
    if base is None or not names:
        raise WrongLayout(
            f"{root} does not have COCO's layout; expected annotations/instances_SPLIT.json"
        )
    name = next((n for n in (split, f"{split}2017", f"{split}2014") if n in names), None)
    if name is None:
        raise UserError(f"{base} has no split {split!r}; found: {', '.join(names)}")
    file = base / "annotations" / f"instances_{name}.json"
    scenes = coco_scenes(name, file, base / name)
    digest = hashlib.sha256(file.read_bytes())
    paths = [scene.file.relative_to(base / name).as_posix() for scene in scenes.scenes]
    digest.update("\n".join(paths).encode(errors="surrogateescape"))
    return InstanceMaps(
        labels=None,
        classes=(BACKGROUND, *scenes.classes),
        fingerprint=digest.hexdigest(),
        notes=scenes.warnings,
        root=base / name,
        paths=paths,
        map_root=file,
        maps=paths,
        scenes=scenes.scenes,
    )


def instance_splits(root: Path) -> tuple[str, ...]:
    """The splits with instances; empty if ROOT has another layout."""
    base = first_folder([root, root / "coco"], "annotations")
    return tuple(_names(base)) if base else ()


def _names(base: Path) -> list[str]:
    files = (base / "annotations").glob("instances_*.json")
    return sorted(file.stem.removeprefix("instances_") for file in files)
