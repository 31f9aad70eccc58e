"""ADE20K as in the scene parsing challenge of 2016 (ADEChallengeData2016.zip), with 150 classes.

    ROOT/images/training/ADE_train_00000001.jpg     ROOT/annotations/training/ADE_train_00000001.png

The value 0 means "other objects" and is void; k is the k-th class (``reduce_zero_label`` in MMSegmentation).
"""

from pathlib import Path

import numpy as np

from msbreg.data.classification.file_lists import (
    PublishedSplit,
    WrongLayout,
    first_folder,
    read_lines,
)
from msbreg.data.segmentation.label_folders import files_by_stem, same_names
from msbreg.data.segmentation.label_maps import INVALID, VOID, LabelMaps, paired
from msbreg.run.errors import UserError

ADE20K = {
    "training": PublishedSplit(20_210, 150),
    "validation": PublishedSplit(2000, 150),
}
CLASSES = 150
NAMES_FILE = "objectInfo150.txt"


def open_ade20k(root: Path, split: str) -> LabelMaps:
    """Images and label maps of ``training`` (or ``train``) and ``validation`` (or ``val``).

    Raises:
        WrongLayout: ROOT has another layout.
        UserError: the split is missing, or images and label maps have different names.
    """
    base = ade20k_root(root)
    if base is None:
        raise WrongLayout(
            f"{root} does not have ADE20K's layout; expected images/training and annotations/training with "
            "files such as ADE_train_00000001"
        )
    name = {"train": "training", "val": "validation"}.get(split, split)
    images, maps = base / "images" / name, base / "annotations" / name
    if not images.is_dir():
        raise UserError(
            f"{images} does not exist; found the splits: {', '.join(ade20k_splits(root))}"
        )
    stems = same_names(images, maps)
    paths, labels = files_by_stem(images), files_by_stem(maps)
    return paired(
        images,
        [paths[stem] for stem in stems],
        maps,
        [labels[stem] for stem in stems],
        _names(base),
        table=without_zero(),
    )


def without_zero() -> np.ndarray:  # (256,) uint8
    """The table from stored values to labels: 0 is void, k becomes k - 1."""
    table = np.full(256, INVALID, np.uint8)
    table[0] = table[VOID] = VOID
    table[1 : CLASSES + 1] = np.arange(CLASSES)
    return table


def ade20k_splits(root: Path) -> tuple[str, ...]:
    """The splits below ROOT; empty if ROOT has another layout."""
    base = ade20k_root(root)
    if base is None:
        return ()
    return tuple(s for s in ADE20K if (base / "images" / s).is_dir())


def ade20k_root(root: Path) -> Path | None:
    """The folder that contains images/training/ADE_*: ROOT or ROOT/ADEChallengeData2016."""
    for base in (root, root / "ADEChallengeData2016"):
        if any(next((base / "images" / s).glob("ADE_*"), None) for s in ADE20K):
            return base
    return None


def _names(base: Path) -> tuple[str, ...]:
    """First names of the classes, from the last column of objectInfo150.txt; numbers without this file."""
    folder = first_folder([base], NAMES_FILE)
    if folder is None:
        return tuple(f"class {k}" for k in range(1, CLASSES + 1))
    rows = read_lines(folder / NAMES_FILE)[1:]
    names = [row.split("\t")[-1].split(",")[0].strip() for row in rows]
    if len(names) != CLASSES:
        raise UserError(
            f"{folder / NAMES_FILE} describes {len(names)} classes; expected a heading and {CLASSES}"
        )
    # Several classes share their first name, such as two kinds of screen.
    return tuple(n if names.count(n) == 1 else f"{n} {k}" for k, n in enumerate(names, 1))
