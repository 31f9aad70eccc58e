"""Image sources: the ``ImageSource`` interface, and the data set layouts in ``SOURCES``.

A data set is given as a name (``digits``, generated on first use), a folder, or LAYOUT:FOLDER. To support a
new layout, write a function ``open_LAYOUT(root, split)`` and add it to ``SOURCES``.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from msbreg.data.classification.cifar import CIFAR, cifar_splits, open_cifar
from msbreg.data.classification.corrupted import corrupted_splits, open_corrupted
from msbreg.data.classification.file_lists import NoSplit, PublishedSplit, WrongLayout
from msbreg.data.classification.fine_grained import (
    FINE_GRAINED,
    fine_grained_splits,
    is_fine_grained,
    open_fine_grained,
)
from msbreg.data.classification.imagenet import IMAGENET, imagenet_splits, open_imagenet
from msbreg.data.classification.imagenet100 import (
    IMAGENET100,
    is_imagenet100,
    open_imagenet100,
)
from msbreg.data.classification.imagenet_variants import VARIANTS, open_variant, variant_splits
from msbreg.data.classification.inaturalist18 import (
    INATURALIST18,
    inaturalist18_splits,
    open_inaturalist18,
)
from msbreg.data.classification.parquet import open_parquet, parquet_splits
from msbreg.data.classification.places205 import (
    PLACES205,
    has_published_lists,
    open_places205,
    places205_splits,
)
from msbreg.data.classification.stl10 import STL10, open_stl10, stl10_splits
from msbreg.data.digits.generate import prepare_digits
from msbreg.data.folder import ImageList, is_image, list_fingerprint, list_images
from msbreg.data.images import LabeledImages
from msbreg.data.voc import VOC_CLASSES, find_voc, image_labels
from msbreg.run.errors import UserError, did_you_mean

log = logging.getLogger("msbreg")


class ImageSource(Protocol):
    """The images of one split in a fixed order, with their labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, indexed by label; empty if the images have no labels."""

    @property
    def fingerprint(self) -> str:
        """Identifies the contents in records; does not depend on where the data are stored."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode image i."""

    def label(self, i: int) -> Any:
        """The label of image i: a class index, a vector (C,), a label map, instances, or None."""

    def name(self, i: int) -> str:
        """The name of image i in messages; its path if it is a file."""

    def cache_key(self) -> str:
        """Identifies the stored files, without reading them; used as a key for caches.

        It changes whenever the fingerprint may have changed, and differs between copies of the same data.
        """


def open_folder(root: Path, split: str) -> ImageList:
    """Labeled images in ``ROOT/SPLIT/CLASS/*``, the layout of torchvision's ImageFolder.

    Raises:
        UserError: the split is missing or empty, has another layout, or mixes images and folders.
    """
    if not (root / split).is_dir():
        raise UserError(_missing_split(root, split))
    images = list_images(root / split)
    if images.labels is None:
        raise UserError(
            f"{root / split} contains images but no class folders; expected "
            f"{root}/{split}/CLASS/*.jpg"
        )
    return images


def open_flat(root: Path, split: str) -> ImageList:
    """Images without labels: all files below ``ROOT/SPLIT``, or below ROOT if ``split`` is empty."""
    return replace(list_images(root / split if split else root), labels=None, classes=())


def open_voc(root: Path, split: str) -> ImageList:
    """Images with multiple labels in PASCAL VOC's layout; ``find_voc`` says where they may be."""
    return voc_images(find_voc(root), split)


def voc_images(voc: Path, split: str) -> ImageList:
    """Images with multiple labels from ``VOC/ImageSets/Main/CLASS_SPLIT.txt``."""
    listed = image_labels(voc, split)
    return ImageList(
        root=listed.paths[0].parent,
        paths=tuple(path.name for path in listed.paths),
        labels=listed.labels,
        classes=listed.classes,
        fingerprint=list_fingerprint(listed.paths),
    )


def folder_splits(root: Path) -> tuple[str, ...]:
    """The folders below ROOT with the usual names of splits; empty if there are none."""
    names = sorted(e.name for e in root.iterdir() if e.is_dir()) if root.is_dir() else []
    return tuple(name for name in names if name.lower() in SPLIT_NAMES)


SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def flat_splits(root: Path) -> tuple[str, ...]:
    """The folder itself, if there are images in it."""
    return ("",) if any(is_image(path) for path in root.glob("*.*")) else ()


VOC2007 = {
    "train": PublishedSplit(2_501, 20),
    "val": PublishedSplit(2_510, 20),
    "trainval": PublishedSplit(5_011, 20),
    "test": PublishedSplit(4_952, 20),
}


def voc_splits(root: Path) -> tuple[str, ...]:
    """The disjoint splits with class files CLASS_SPLIT.txt; empty if ROOT has another layout."""
    try:
        main = find_voc(root) / "ImageSets" / "Main"
    except UserError:
        return ()
    return tuple(split for split in ("trainval", "test") if any(main.glob(f"*_{split}.txt")))


@dataclass(frozen=True)
class Layout:
    """A layout of data sets. Calling it opens one split: ``layout(root, split)``.

    Attributes:
        open: (root, split) -> images.
        splits: root -> the splits below it that should have no image in common; empty if ``root`` cannot be
            read in this layout.
        published: split -> what it contains as published, if the layout is that of one data set.
        recognizes: root -> whether it has this layout and no other, for layouts that also read the trees of
            others; by default, whether it has splits.
    """

    open: Callable[[Path, str], LabeledImages]
    splits: Callable[[Path], tuple[str, ...]] = folder_splits
    published: Mapping[str, PublishedSplit] = field(default_factory=dict)
    recognizes: Callable[[Path], bool] | None = None

    def __call__(self, root: Path, split: str) -> LabeledImages:
        """Open one split.

        Raises:
            UserError: the data are missing or have a different layout, which the message names; or there is
                no such split, and the message names a similar one.
        """
        try:
            return self.open(root, split)
        except NoSplit as error:
            raise NoSplit(f"{error}{_similar_split(split, self.splits(root))}") from error
        except WrongLayout as error:
            present = sorted(e.name for e in root.iterdir()) if root.is_dir() else []
            hint = f"\nFound: {', '.join(present[:8]) or 'nothing'}"
            if (other := recognized(root)) and SOURCES[other] is not self:
                hint += f".\nThis looks like the layout {other}: use {other}:{root}"
            raise WrongLayout(f"{str(error).rstrip('.')}.{hint}") from error


# A folder that several layouts fit is recognized as the first of them.
SOURCES: dict[str, Layout] = {
    "stl10": Layout(open_stl10, stl10_splits, STL10),
    "places205": Layout(open_places205, places205_splits, PLACES205, has_published_lists),
    "inaturalist18": Layout(open_inaturalist18, inaturalist18_splits, INATURALIST18),
    "imagenet100": Layout(open_imagenet100, imagenet_splits, IMAGENET100, is_imagenet100),
    "imagenet": Layout(open_imagenet, imagenet_splits, IMAGENET),
    **{
        name: Layout(partial(open_variant, name), partial(variant_splits, name), counts)
        for name, counts in VARIANTS.items()
    },
    **{
        name: Layout(partial(open_cifar, name), partial(cifar_splits, name), counts)
        for name, counts in CIFAR.items()
    },
    **{
        name: Layout(
            partial(open_fine_grained, name),
            partial(fine_grained_splits, name),
            one.published,
            partial(is_fine_grained, name),
        )
        for name, one in FINE_GRAINED.items()
    },
    # Reads the trees of "folder", so that no folder is recognized as this layout.
    "corrupted": Layout(open_corrupted, lambda root: corrupted_splits(), {}, lambda root: False),
    "parquet": Layout(open_parquet, parquet_splits),
    "voc": Layout(open_voc, voc_splits),
    "folder": Layout(open_folder, folder_splits),
    "flat": Layout(open_flat, flat_splits),
}


def recognized(root: Path) -> str | None:
    """The layout that a folder looks like; None for an unknown one."""
    return next(
        (name for name, one in SOURCES.items() if (one.recognizes or one.splits)(root)), None
    )


def published_images(
    data: str, split: str, images: LabeledImages, *, layout: str = "folder"
) -> int | None:
    """The number of images of a split as published; None if the layout is not that of one data set.

    Args:
        data, layout: as in ``open_source``.
        images: the split; VOC2007 has a layout that other data sets share, and is recognized by its classes.
    """
    layout = split_layout(data)[0] or layout
    published = SOURCES[layout].published
    if layout == "voc" and images.classes == VOC_CLASSES:
        voc = Path(images.where).parent  # of JPEGImages
        published = VOC2007 if "VOC2007" in (voc.name, voc.resolve().name) else {}
    return published[split].images if split in published else None


# Name -> a function that generates a folder with one subfolder per layout: folder, voc, coco.
EMBEDDED: dict[str, Callable[[], Path]] = {"digits": prepare_digits}


def data_root(data: str, layout: str) -> Path:
    """The root folder of a data set: the path itself, or the generated folder of an embedded data set.

    Raises:
        UserError: ``data`` is neither a known name nor an existing path.
    """
    if data in EMBEDDED:
        return EMBEDDED[data]() / layout
    check_source(data)
    return Path(data).expanduser()


def check_source(data: str, layouts: Collection[str] = ()) -> None:
    """Check that a data set is a known name, a folder, or LAYOUT:FOLDER.

    Args:
        layouts: names of the layouts; empty: those of classified images.

    Raises:
        UserError: it is none of these; an unknown layout is named.
    """
    known = layouts or SOURCES
    given, folder = split_layout(data, known)
    if folder in EMBEDDED or Path(folder).expanduser().is_dir():
        return
    layout, colon, _ = folder.partition(":")
    if colon and not given and "/" not in layout:
        raise UserError(
            f"data {data!r} has the unknown layout {layout!r}{did_you_mean(layout, known) or '.'}\n"
            f"Expected a folder, or LAYOUT:FOLDER with one of: {', '.join(known)}"
        )
    what = (
        "is a file"
        if Path(folder).expanduser().exists()
        else "is neither a folder nor a known name"
    )
    raise UserError(
        f"data {folder!r} {what}; expected a folder, LAYOUT:FOLDER or one of: {', '.join(EMBEDDED)}"
    )


def split_layout(data: str, layouts: Collection[str] = ()) -> tuple[str, str]:
    """Split LAYOUT:FOLDER into (layout, folder); the layout is empty if none is given.

    Args:
        layouts: names of the layouts; empty: those of classified images.

    >>> split_layout("voc:/data/VOCdevkit"), split_layout("digits")
    (('voc', '/data/VOCdevkit'), ('', 'digits'))
    """
    layout, colon, folder = data.partition(":")
    if colon and layout in (layouts or SOURCES) and not Path(data).exists():
        return layout, folder
    return "", data


def data_name(data: str, layouts: Collection[str] = ()) -> str:
    """The name of a data set in tables: its name, or the last component of its path.

    Args:
        layouts: names of the layouts; empty: those of classified images.

    >>> data_name("digits"), data_name("/data/imagenet/"), data_name("voc:/data/VOCdevkit")
    ('digits', 'imagenet', 'VOCdevkit')
    """
    _, folder = split_layout(data, layouts)
    return Path(folder).name or folder


def open_source(data: str, split: str, *, layout: str = "folder") -> LabeledImages:
    """Open one split of a data set, given as a name, a folder in ``layout``, or LAYOUT:FOLDER.

    The caller reports the ``notes`` of the images, which several splits may share.

    Raises:
        UserError: the data are missing or have a different layout.
    """
    given, folder = split_layout(data)
    layout = given or layout
    return SOURCES[layout](data_root(folder, layout), split)


def as_source(images: "str | Path | Sequence[str | Path] | ImageSource") -> "ImageSource":
    """Convert a folder (with or without class folders) or a list of files to a source.

    Raises:
        UserError: the folder is missing, empty or mixes images and folders, or the list is empty.
    """
    if isinstance(images, str | Path):
        return list_images(Path(images).expanduser())
    if not isinstance(images, Sequence):
        return images
    if not images:
        raise UserError("the list of images is empty; expected at least one path")
    paths = [Path(path).expanduser() for path in images]
    return ImageList(
        root=Path(),
        paths=tuple(map(str, paths)),
        labels=None,
        classes=(),
        fingerprint=list_fingerprint(paths),
    )


def training_images(
    data: str, split: str = "train", *, classes_file: Path | None = None
) -> LabeledImages:
    """The images for pre-training: ``DATA/SPLIT``; labels are optional.

    Without the folder ``DATA/train``, the split ``train`` is DATA itself. ``LAYOUT:FOLDER`` has the splits of
    that layout.

    Raises:
        UserError: the folder is missing or empty, contains splits instead of classes, or has no such split.
    """
    layout, _ = split_layout(data)
    if layout:
        if classes_file is not None:
            raise UserError(
                f"--classes-file selects class folders, but {data} has none; omit --classes-file"
            )
        images = open_source(data, split)
        for note in images.notes:
            log.warning("%s: %s", data, note)
        return images
    root = data_root(data, "folder")
    folder = root / split
    if split != "train" and not folder.is_dir():
        raise UserError(_missing_split(root, split))
    if not folder.is_dir():
        folder = root
    if splits := folder_splits(folder):
        raise UserError(
            f"{folder} contains {', '.join(splits)}, which look like splits, not classes; "
            f"expected {folder}/train, or the folder of one split"
        )
    return list_images(folder, classes_file=classes_file)


def _missing_split(root: Path, split: str) -> str:
    """The message for a missing ROOT/SPLIT: what was found instead, and what to do."""
    present = sorted(e.name for e in root.iterdir() if e.name[0] != ".") if root.is_dir() else []
    if any((folder / "ImageSets").is_dir() for folder in (root, *root.glob("VOC*"))):
        return (
            f"{root} has PASCAL VOC's layout with multiple labels per image; expected "
            f"{root}/{split}/CLASS/*.jpg.\nUse transfer/svm.py --data {root} for classification, or "
            f"transfer/detection.py with the data set voc:{root}:SPLIT for detection."
        )
    if any((root / "annotations").glob("instances_*.json")):
        return (
            f"{root} has COCO's layout with boxes; expected {root}/{split}/CLASS/*.jpg.\n"
            "Use transfer/detection.py with the data set coco:JSON:IMAGES."
        )
    if (other := recognized(root)) not in (None, "folder", "flat"):
        return (
            f"{root} has no folder {split!r} of classes. It looks like the layout {other}: "
            f"use {other}:{root}"
        )
    message = (
        f"{root} has no folder {split!r}; expected {root}/{split}/CLASS/*.jpg, "
        f"found: {', '.join(present[:8]) or 'nothing'}"
    )
    return message + _similar_split(split, folder_splits(root))


def _similar_split(split: str, present: Iterable[str]) -> str:
    """The end of a message about a missing split: one to train or to test on instead, if there is one."""
    for_training = split.lower().startswith("train")
    option = "--train-split" if for_training else "--val-split"
    for name in present:
        if name.lower() in SPLIT_NAMES and name.lower().startswith("train") == for_training:
            return f".\nUse another split with {option} {name}"
    return ""
