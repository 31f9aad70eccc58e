"""Places205: the published lists, and mirrors with class folders.

    ROOT/trainvalsplit_places205/{train,val}_places205.csv       lines "a/abbey/gsun_0a1b.jpg 0"
    ROOT/data/vision/torralba/deeplearning/images256/a/abbey/gsun_0a1b.jpg

(or the lists and images256/ in ROOT itself). Mirrors have ROOT/train/CLASS/ and ROOT/val/CLASS/ instead.
Their labels follow the sorted names of the folders, which is not always the order of the lists. The test
images have no public labels (Zhou et al., NIPS 2014; places.csail.mit.edu).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from msbreg.data.classification.file_lists import (
    PublishedSplit,
    WrongLayout,
    first_folder,
    listed_images,
    read_lines,
)
from msbreg.data.folder import ImageList, list_images
from msbreg.run.errors import UserError

PLACES205 = {
    "train": PublishedSplit(2_448_873, 205, (5_000, 15_000)),
    "val": PublishedSplit(20_500, 205, (100, 100)),
}
CLASSES = 205
_IMAGES = ("data/vision/torralba/deeplearning/images256", "images256", "")
_MIRROR = (
    "the labels of this Places205 mirror are the sorted names of its folders; those of the published lists "
    "may differ, so use a classifier only with the copy that it was trained on"
)


def open_places205(root: Path, split: str) -> ImageList:
    """Images of Places205, ``train`` or ``val``.

    Raises:
        WrongLayout: there are neither lists nor class folders.
        MissingImages: some of the listed images are missing.
        UserError: the split does not exist, or a line or a label of its list is invalid.
    """
    if split not in PLACES205:
        raise UserError(
            f"Places205 has no split {split!r}; expected train or val. The labels of its test images are "
            "not public"
        )
    lists = _lists_folder(root)
    if lists is None:
        if not (root / split).is_dir():
            raise WrongLayout(
                f"{root} contains neither {split}_places205.csv nor the folder {split}/"
            )
        mirror = list_images(root / split)
        if mirror.labels is None:
            raise WrongLayout(f"{root / split} contains images but no class folders")
        return replace(mirror, notes=(_MIRROR,))
    file = lists / f"{split}_places205.csv"
    paths, labels = _read_list(file)
    classes = _class_names(paths, labels, file)
    folders = [root / name for name in _IMAGES]
    first = paths[0].partition("/")[0]
    images = first_folder(folders, first)
    if images is None:
        raise UserError(
            f"{file} lists {paths[0]}, but none of these folders contains {first}/: "
            f"{', '.join(map(str, folders))}.\nExtract imagesPlaces205_resize.tar.gz there."
        )
    return listed_images(images, paths, labels, classes, list_file=file)


def places205_splits(root: Path) -> tuple[str, ...]:
    """The splits with a published list or, for a mirror, with a folder; empty if ROOT has another layout."""
    lists = _lists_folder(root)
    if lists is None:
        return tuple(split for split in PLACES205 if (root / split).is_dir())
    return tuple(split for split in PLACES205 if (lists / f"{split}_places205.csv").is_file())


def has_published_lists(root: Path) -> bool:
    """Whether a published list exists; mirrors look like any folder of classes."""
    return _lists_folder(root) is not None


def _lists_folder(root: Path) -> Path | None:
    names = [f"{split}_places205.csv" for split in PLACES205]
    return first_folder((root / "trainvalsplit_places205", root), *names)


def _read_list(file: Path) -> tuple[list[str], np.ndarray]:
    """Paths and labels (N,). The label follows the last space, because paths may contain spaces."""
    paths, labels = [], []
    for number, line in enumerate(read_lines(file), 1):
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isascii() or not label.isdigit():
            raise UserError(
                f"{file}:{number} is {line[:80]!r}; expected a path, a space and a label"
            )
        paths.append(path.strip().strip("/"))
        labels.append(int(label))
    if not paths:
        raise UserError(f"{file} lists no images")
    most = max(labels)
    if most >= CLASSES:
        raise UserError(
            f"{file}:{labels.index(most) + 1} has the label {most}; expected 0 to {CLASSES - 1}"
        )
    return paths, np.array(labels, np.int64)


def _class_names(paths: list[str], labels: np.ndarray, file: Path) -> tuple[str, ...]:
    """The folder of each label without the leading letter: ``apartment_building/outdoor``."""
    folders: dict[int, str] = {}
    for path, label in zip(paths, labels.tolist(), strict=True):
        if label not in folders:
            folder = path.rpartition("/")[0]
            letter, _, name = folder.partition("/")
            folders[label] = name if len(letter) == 1 and name else folder
    absent = sorted(set(range(max(folders) + 1)) - folders.keys())
    if absent:
        raise UserError(
            f"{file} lists no image with the label {absent[0]}; expected images of every class, 0 to "
            f"{max(folders)}"
        )
    return tuple(folders[label] for label in range(len(folders)))
