"""Sources of label maps: the layouts in ``MAP_SOURCES``, like ``msbreg.data.sources`` for classification.

A data set is given as ``digits``, a folder whose layout is recognized, or LAYOUT:FOLDER.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msbreg.data.classification.file_lists import PublishedSplit, WrongLayout
from msbreg.data.segmentation.ade20k import ADE20K, ade20k_splits, open_ade20k
from msbreg.data.segmentation.cityscapes_maps import (
    CITYSCAPES_MAPS,
    cityscapes_map_splits,
    open_cityscapes_maps,
)
from msbreg.data.segmentation.instance_maps import instance_splits, open_instance_maps
from msbreg.data.segmentation.label_folders import label_folder_splits, open_label_folders
from msbreg.data.segmentation.label_maps import LabelMaps
from msbreg.data.segmentation.voc_maps import VOC_MAPS, open_voc_maps, voc_map_splits
from msbreg.data.sources import EMBEDDED, data_root, split_layout
from msbreg.run.errors import UserError

log = logging.getLogger("msbreg")


@dataclass(frozen=True)
class MapLayout:
    """A layout of label maps.

    Attributes:
        open: (root, split) -> images with label maps.
        splits: root -> the splits below it that should have no image in common; empty if ``root`` cannot be
            read in this layout.
        published: split -> what it contains as published, if the layout is that of one data set.
    """

    open: Callable[[Path, str], LabelMaps]
    splits: Callable[[Path], tuple[str, ...]]
    published: Mapping[str, PublishedSplit]


# A folder that several layouts fit is recognized as the first of them.
MAP_SOURCES: dict[str, MapLayout] = {
    "voc": MapLayout(open_voc_maps, voc_map_splits, VOC_MAPS),
    "cityscapes": MapLayout(open_cityscapes_maps, cityscapes_map_splits, CITYSCAPES_MAPS),
    "ade20k": MapLayout(open_ade20k, ade20k_splits, ADE20K),
    "folders": MapLayout(open_label_folders, label_folder_splits, {}),
    "coco": MapLayout(open_instance_maps, instance_splits, {}),
}


def open_label_maps(data: str, split: str) -> LabelMaps:
    """Open one split of a data set with label maps.

    Raises:
        UserError: the data are missing, or have an unknown or another layout.
    """
    layout, folder = split_layout(data, MAP_SOURCES)
    if folder in EMBEDDED:
        layout = layout or "voc"
        root = data_root(folder, layout)
    else:
        root = Path(folder).expanduser()
        layout = layout or recognized_maps(root)
    try:
        source = MAP_SOURCES[layout].open(root, split)
    except WrongLayout as error:
        fitting = next((name for name, one in MAP_SOURCES.items() if one.splits(root)), None)
        hint = f".\nThis looks like the layout {fitting}: use {fitting}:{root}" if fitting else ""
        raise WrongLayout(f"{str(error).rstrip('.')}{hint}") from error
    for note in source.notes:
        log.warning("%s: %s", data, note)
    return source


def recognized_maps(root: Path) -> str:
    """The layout of a folder.

    Raises:
        UserError: the folder does not exist or has no known layout.
    """
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; expected a folder with label maps")
    for name, one in MAP_SOURCES.items():
        if one.splits(root):
            return name
    raise UserError(
        f"{root} has no known layout of label maps.\n"
        "  voc         expects ImageSets/Segmentation, JPEGImages and SegmentationClass\n"
        "  cityscapes  expects leftImg8bit/ and gtFine/\n"
        "  ade20k      expects images/training/ADE_* and annotations/training\n"
        "  folders     expects classes.txt, images/SPLIT and labels/SPLIT\n"
        "  coco        expects annotations/instances_SPLIT.json and SPLIT/"
    )
