"""PASCAL VOC's label maps: ImageSets/Segmentation/SPLIT.txt, JPEGImages and SegmentationClass.

The value 0 is the background, k the k-th class, and 255 the border of objects. The split ``trainaug`` of
10,582 images adds those of the Semantic Boundaries Dataset (SBD, Hariharan et al., ICCV 2011), whose label
maps ``tools/convert_sbd.py`` writes to SegmentationClassAug.
"""

from pathlib import Path

from msbreg.data.classification.file_lists import (
    PublishedSplit,
    WrongLayout,
    first_folder,
    read_lines,
)
from msbreg.data.digits.writers import NAMES as DIGITS
from msbreg.data.segmentation.label_maps import LabelMaps, paired
from msbreg.data.voc import CLASSES_FILE, VOC_CLASSES, check_classes
from msbreg.run.errors import UserError

VOC_MAPS = {
    "train": PublishedSplit(1464, 21),
    "val": PublishedSplit(1449, 21),
    "trainval": PublishedSplit(2913, 21),
    "trainaug": PublishedSplit(10_582, 21),
}
BACKGROUND = "background"
FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def open_voc_maps(root: Path, split: str) -> LabelMaps:
    """Images and label maps of one split, in the order of its list.

    The classes after the background are those in ``classes.txt``; without this file, those of PASCAL VOC, or
    of the embedded digits.

    Raises:
        WrongLayout: ROOT has another layout.
        UserError: the list is missing, or names an image or a label map that is.
    """
    voc = voc_root(root)
    if voc is None:
        raise WrongLayout(
            f"{root} does not have VOC's layout; expected ImageSets/Segmentation, JPEGImages and "
            "SegmentationClass"
        )
    lists = voc / "ImageSets" / "Segmentation"
    file = lists / f"{split}.txt"
    if not file.is_file():
        present = ", ".join(sorted(path.stem for path in lists.glob("*.txt")))
        hint = "\nWrite it with tools/convert_sbd.py." if split == "trainaug" else ""
        raise UserError(f"{file} does not exist; found the splits: {present or 'none'}.{hint}")
    ids = [line.strip() for line in read_lines(file)]
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise UserError(f"{file} lists {twice} twice; expected each image once")
    main, more = FOLDERS
    own = {path.stem for path in (voc / main).glob("*.png")}
    return paired(
        voc,
        [f"JPEGImages/{name}.jpg" for name in ids],
        voc,
        [f"{main if name in own or split != 'trainaug' else more}/{name}.png" for name in ids],
        (BACKGROUND, *_classes(voc)),
    )


def voc_map_splits(root: Path) -> tuple[str, ...]:
    """The disjoint splits with label maps; empty if ROOT has another layout."""
    voc = voc_root(root)
    if voc is None:
        return ()
    lists = voc / "ImageSets" / "Segmentation"
    train = next((s for s in ("trainaug", "train") if (lists / f"{s}.txt").is_file()), None)
    return tuple(s for s in (train, "val", "test") if s and (lists / f"{s}.txt").is_file())


def voc_root(root: Path) -> Path | None:
    """The folder that contains ImageSets/Segmentation: ROOT, or VOC2012 or VOC2007 below it."""
    years = [root / below / f"VOC{year}" for year in (2012, 2007) for below in ("", "VOCdevkit")]
    return first_folder([root, *years], "ImageSets/Segmentation")


def _classes(voc: Path) -> tuple[str, ...]:
    file = voc / CLASSES_FILE
    if not file.is_file():
        return DIGITS if (voc.parents[1] / "digits.json").is_file() else VOC_CLASSES
    named = tuple(line.strip() for line in read_lines(file))
    check_classes(named, str(file))
    return named[1:] if named[0] == BACKGROUND else named
