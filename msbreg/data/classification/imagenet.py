"""ImageNet-1k (ILSVRC2012): class folders, Kaggle's tree, flat validation images, lists of training images.

The label of an image is the index of its WordNet id (wnid) in sorted order, as in torchvision and in most
checkpoints. The devkit numbers the classes differently; see ``imagenet_validation``.

    ROOT/train/n01440764/n01440764_10026.JPEG           or ROOT/ILSVRC/Data/CLS-LOC/train/...
    ROOT/val/n01440764/ILSVRC2012_val_00000293.JPEG     or ROOT/val/ILSVRC2012_val_00000293.JPEG with labels

The split ``train-1pct`` contains the images that ``ROOT/1percent.txt`` names, ``train-10pct`` those of
``ROOT/10percent.txt`` (SimCLR's lists: github.com/google-research/simclr, imagenet_subsets/), and
``train-NAME`` those of ``ROOT/NAME.txt``; ``train-PATH.txt`` takes a list from elsewhere.
"""

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from msbreg.data.classification.file_lists import (
    NoSplit,
    PublishedSplit,
    WrongLayout,
    first_folder,
    listed_images,
    read_lines,
)
from msbreg.data.classification.imagenet_validation import flat_validation
from msbreg.data.folder import ImageList, list_images, read_classes
from msbreg.run.errors import UserError

IMAGENET = {
    "train": PublishedSplit(1_281_167, 1000, (732, 1300)),
    "val": PublishedSplit(50_000, 1000, (50, 50)),
    "train-1pct": PublishedSplit(12_811, 1000, (12, 13)),
    "train-10pct": PublishedSplit(128_116, 1000, (128, 129)),
}
WNID = re.compile(r"n\d{8}")
# Split -> the file of the list, and its sha256.
SUBSETS = {
    "1pct": (
        "1percent.txt",
        "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
    ),
    "10pct": (
        "10percent.txt",
        "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
    ),
}


def open_imagenet(root: Path, split: str, *, classes_file: Path | None = None) -> ImageList:
    """Images of ImageNet: ``train``, ``val``, any other folder of wnids, or ``train-NAME`` for a list.

    Args:
        classes_file: file with one wnid per line; only these classes are used, in sorted order.

    Raises:
        WrongLayout: the folder contains no class folders named by wnids.
        MissingImages: images of a list are missing.
        UserError: the split is missing, or its labels are.
    """
    base = image_root(root)
    if base is None:
        raise WrongLayout(
            f"{root} contains neither train/ nor val/ with folders such as n01440764{_archives(root)}"
        )
    folder, _, subset = split.partition("-")
    if subset and not (base / split).is_dir():
        return _listed(root, base, folder, subset, classes_file)
    if not (base / split).is_dir():
        present = ", ".join(imagenet_splits(root))
        raise NoSplit(
            f"{base} has no folder {split!r}; found the splits: {present}{_archives(root)}"
        )
    names, images = _contents(base / split)
    if images and not names:
        if split == "test":
            raise UserError(f"{base / split}: the labels of ImageNet's test images are not public")
        return flat_validation(base / split, root, classes_file)
    if strange := [name for name in names if not WNID.fullmatch(name)]:
        raise WrongLayout(
            f"{base / split} contains the folder {strange[0]!r}; expected folders with names such as "
            "n01440764"
        )
    return list_images(base / split, classes_file=classes_file)


def imagenet_splits(root: Path) -> tuple[str, ...]:
    """The splits below ROOT that have no image in common; empty if ROOT has another layout."""
    base = image_root(root)
    if base is None:
        return ()
    return tuple(name for name in ("train", "val") if (base / name).is_dir())


def image_root(root: Path) -> Path | None:
    """The folder that contains train/ or val/ with wnids, or with flat validation images."""
    candidates = (root, root / "ILSVRC/Data/CLS-LOC", root / "Data/CLS-LOC")
    return next((base for base in candidates if _is_image_root(base)), None)


def wnids_of(folder: Path) -> set[str]:
    """The names of the class folders; empty if there is no such folder."""
    return {name for name in _contents(folder)[0] if WNID.fullmatch(name)}


def _is_image_root(base: Path) -> bool:
    if wnids_of(base / "train") or wnids_of(base / "val"):
        return True
    return any(name.startswith("ILSVRC2012_val_") for name in _contents(base / "val")[1])


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the folders, and the names of up to ten files; empty if the folder does not exist."""
    folders: list[str] = []
    files: list[str] = []
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if os.path.isdir(entry.path):
                    folders.append(entry.name)
                elif len(files) < 10:
                    files.append(entry.name)
                elif not folders:
                    break  # tens of thousands of flat images
    return sorted(folders), files


def _archives(root: Path) -> str:
    """A sentence about archives that are not extracted yet; empty if there are none."""
    tars = sorted([*root.glob("ILSVRC2012_img_*.tar"), *root.glob("train/n*.tar")])[:1]
    return f".\n{tars[0]} is an archive: extract it first" if tars else ""


# ---- Lists of training images


def _listed(
    root: Path, base: Path, folder: str, subset: str, classes_file: Path | None
) -> ImageList:
    """The images of a list, one name nXXXXXXXX_NNNN.JPEG per line, in the order of the list."""
    file = _list_file(root, folder, subset)
    names = [line.strip() for line in read_lines(file)]
    wrong = [name for name in names if not re.fullmatch(r"n\d{8}_\d+\.JPEG", name)]
    if wrong:
        raise UserError(
            f"{file} contains {wrong[0][:60]!r}; expected one name such as n01440764_10026.JPEG per line"
        )
    chosen = _classes(classes_file)
    if chosen:
        names = [name for name in names if name[:9] in chosen]
    # A class that the list misses is reported by the protocol, which compares the classes of both splits.
    classes = tuple(sorted(chosen or {name[:9] for name in names}))
    label = {wnid: i for i, wnid in enumerate(classes)}
    labels = np.array([label[name[:9]] for name in names], np.int64)
    paths = [f"{name[:9]}/{name}" for name in names]
    return listed_images(base / folder, paths, labels, classes, list_file=file)


def _list_file(root: Path, folder: str, subset: str) -> Path:
    """The file of a list, with the published content if it is a published one."""
    name, published = SUBSETS.get(subset, (subset.removesuffix(".txt") + ".txt", ""))
    places = [root, root / "imagenet_subsets"]
    found = first_folder(places, name)
    file = found / name if found else Path(name).expanduser()
    if not found and (name in dict(SUBSETS.values()) or not file.is_file()):
        raise UserError(
            f"the split {folder}-{subset} needs the list of its images, {name}, in {root} or in "
            f"{places[1]}.\nThe lists of 1 % and 10 % are in imagenet_subsets/ of "
            "github.com/google-research/simclr."
        )
    published = published or dict(SUBSETS.values()).get(name, "")
    if published:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != published:
            raise UserError(
                f"{file} has the sha256 {digest}; the published list has {published}.\nDownload it again, or "
                f"rename your own list: NAME.txt is the split {folder}-NAME."
            )
    return file


def _classes(classes_file: Path | None) -> Collection[str]:
    return read_classes(classes_file) if classes_file is not None else ()
