"""Cityscapes' label maps: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY, with the 19 evaluated classes.

The published ``*_labelIds.png`` are translated on reading; ``*_labelTrainIds.png``, which cityscapesScripts
generates, are read as they are. All other labels are void (cityscapesscripts/helpers/labels.py).
"""

from pathlib import Path

import numpy as np

from msbreg.data.classification.file_lists import PublishedSplit, WrongLayout, first_folder
from msbreg.data.segmentation.label_maps import INVALID, VOID, LabelMaps, paired
from msbreg.run.errors import UserError

CITYSCAPES_MAPS = {
    "train": PublishedSplit(2975, 19),
    "val": PublishedSplit(500, 19),
}
# Class -> its id in *_labelIds.png, by ascending train id.
LABEL_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
    "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
LARGEST_ID = 33
IMAGE = "_leftImg8bit.png"


def open_cityscapes_maps(root: Path, split: str) -> LabelMaps:
    """Images and label maps of ``train`` or ``val``, by city and file name.

    Raises:
        WrongLayout: ROOT has another layout.
        UserError: the split is missing, or an image has no label map.
    """
    base = cityscapes_root(root)
    if base is None:
        raise WrongLayout(
            f"{root} does not have Cityscapes' layout; expected leftImg8bit/ and gtFine/"
        )
    images = base / "leftImg8bit" / split
    paths = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/*{IMAGE}"))
    if not paths:
        raise UserError(f"no images CITY/*{IMAGE} found in {images}")
    maps = base / "gtFine" / split
    generated = any(maps.glob("*/*_gtFine_labelTrainIds.png"))
    ending = "_gtFine_labelTrainIds.png" if generated else "_gtFine_labelIds.png"
    return paired(
        images,
        paths,
        maps,
        [path.removesuffix(IMAGE) + ending for path in paths],
        tuple(LABEL_IDS),
        table=None if generated else train_ids(),
    )


def train_ids() -> np.ndarray:  # (256,) uint8
    """The table from label ids to train ids.

    >>> [int(train_ids()[value]) for value in (7, 33, 0)]
    [0, 18, 255]
    """
    table = np.full(256, INVALID, np.uint8)
    table[: LARGEST_ID + 1] = VOID
    table[VOID] = VOID  # the license plate, whose id is -1
    for label, stored in enumerate(LABEL_IDS.values()):
        table[stored] = label
    return table


def cityscapes_map_splits(root: Path) -> tuple[str, ...]:
    """The splits with public labels; empty if ROOT has another layout."""
    base = cityscapes_root(root)
    if base is None:
        return ()
    return tuple(s for s in ("train", "val") if (base / "leftImg8bit" / s).is_dir())


def cityscapes_root(root: Path) -> Path | None:
    """The folder that contains leftImg8bit/ and gtFine/: ROOT or ROOT/cityscapes."""
    found = first_folder([root, root / "cityscapes"], "leftImg8bit")
    return found if found and (found / "gtFine").is_dir() else None
