"""Where images and labels come from: ``ImageSource``, and SOURCES with one entry per layout.

A data set is given by name (``digits``, generated on first use), as a folder, or as LAYOUT:FOLDER.
A new layout is one function ``open(root, split)`` and one line in SOURCES.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from msbreg.data.digits.generate import prepare_digits
from msbreg.data.folder import ImageList, list_fingerprint, list_images
from msbreg.data.voc import image_labels
from msbreg.run.errors import UserError


class ImageSource(Protocol):
    """The images of one split, in a fixed order, with what is known about each."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels; empty without labels."""

    @property
    def fingerprint(self) -> str:
        """Content identity that a record cites, the same wherever the data are."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode image i."""

    def label(self, i: int) -> Any:
        """Class index, row of labels (C,), label map, instances, or None."""

    def name(self, i: int) -> str:
        """What messages call image i: its path, where it is a file."""

    def cache_key(self) -> str:
        """Identity of the stored data, found without reading the images; the key of caches.

        It differs whenever the fingerprint may differ, and also between copies of the same data.
        """


def open_folder(root: Path, split: str) -> ImageList:
    """``ROOT/SPLIT/CLASS/*``, torchvision's ImageFolder.

    Raises:
        UserError: the folder or the split is missing, empty or mixed, or has another layout.
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
    """Images without labels: all files below ``ROOT/SPLIT``, or below ROOT for an empty split."""
    images = list_images(root / split if split else root)
    return ImageList(
        images.root, images.paths, None, (), images.fingerprint, ignored=images.ignored
    )


def open_voc(root: Path, split: str) -> ImageList:
    """Image-level labels of PASCAL VOC's layout, from ``ImageSets/Main/CLASS_SPLIT.txt``."""
    listed = image_labels(root, split)
    return ImageList(
        listed.paths[0].parent,
        tuple(path.name for path in listed.paths),
        listed.labels,
        listed.classes,
        list_fingerprint(listed.paths),
    )


SOURCES: dict[str, Callable[[Path, str], ImageList]] = {
    "folder": open_folder,
    "flat": open_flat,
    "voc": open_voc,
}

# Name -> the generated folder, which has one subfolder per layout: folder, voc, coco.
EMBEDDED: dict[str, Callable[[], Path]] = {"digits": prepare_digits}


def data_root(data: str, layout: str) -> Path:
    """The folder of a data set in one layout; a path is itself.

    Raises:
        UserError: it is neither a known name nor a folder.
    """
    if data in EMBEDDED:
        return EMBEDDED[data]() / layout
    path = Path(data).expanduser()
    if not path.exists():
        raise UserError(
            f"data {data!r} is neither a folder nor a known name; expected a path or one of: "
            f"{', '.join(EMBEDDED)}"
        )
    return path


def split_layout(data: str) -> tuple[str, str]:
    """(layout, folder) of LAYOUT:FOLDER; the layout is empty where none is given.

    >>> split_layout("voc:/data/VOCdevkit"), split_layout("digits")
    (('voc', '/data/VOCdevkit'), ('', 'digits'))
    """
    layout, colon, folder = data.partition(":")
    if colon and layout in SOURCES and not Path(data).exists():
        return layout, folder
    return "", data


def data_name(data: str) -> str:
    """What tables call a data set: its name, or the last part of its path.

    >>> data_name("digits"), data_name("/data/imagenet/"), data_name("voc:/data/VOCdevkit")
    ('digits', 'imagenet', 'VOCdevkit')
    """
    _, folder = split_layout(data)
    return Path(folder).name or folder


def open_source(data: str, split: str, *, layout: str = "folder") -> ImageList:
    """One split of a data set: a name, a folder in ``layout``, or LAYOUT:FOLDER.

    Raises:
        UserError: the data are missing or not in that layout.
    """
    given, folder = split_layout(data)
    layout = given or layout
    return SOURCES[layout](data_root(folder, layout), split)


def as_source(images: "str | Path | Sequence[str | Path] | ImageSource") -> "ImageSource":
    """A folder of images (with or without class folders), a list of files, or a source as it is.

    Raises:
        UserError: the folder is missing, empty or mixed, or the list is empty.
    """
    if isinstance(images, str | Path):
        return list_images(Path(images).expanduser())
    if not isinstance(images, Sequence):
        return images
    if not images:
        raise UserError("the list of images is empty; expected at least one path")
    paths = [Path(path).expanduser() for path in images]
    return ImageList(Path(), tuple(map(str, paths)), None, (), list_fingerprint(paths))


def training_images(data: str, *, classes_file: Path | None = None) -> ImageList:
    """The images to pre-train on: ``DATA/train`` if it exists, else DATA itself, labels or not.

    ``LAYOUT:FOLDER`` takes the split ``train`` of that layout.
    """
    layout, _ = split_layout(data)
    if layout:
        if classes_file is not None:
            raise UserError(f"--classes-file chooses class folders, which {data} does not have")
        return open_source(data, "train")
    root = data_root(data, "folder")
    folder = root / "train" if (root / "train").is_dir() else root
    splits = {"train", "training", "val", "valid", "validation", "test", "testing"}
    named = sorted(e.name for e in folder.iterdir() if e.is_dir() and e.name.lower() in splits)
    if named:
        raise UserError(
            f"{folder} contains {', '.join(named)}, which look like splits, not classes; "
            f"expected {folder}/train, or the folder of one split"
        )
    return list_images(folder, classes_file=classes_file)


def _missing_split(root: Path, split: str) -> str:
    """What is there instead of ROOT/SPLIT, and what to do."""
    present = sorted(e.name for e in root.iterdir() if e.name[0] != ".") if root.is_dir() else []
    if any((place / "ImageSets").is_dir() for place in (root, *root.glob("VOC*"))):
        return (
            f"{root} is in PASCAL VOC's layout, whose images have several labels; expected "
            f"{root}/{split}/CLASS/*.jpg.\nUse transfer/svm.py --data {root} for classification, or "
            f"transfer/detection.py with the data set voc:{root}:SPLIT for detection."
        )
    if any((root / "annotations").glob("instances_*.json")):
        return (
            f"{root} is in COCO's layout, which has boxes; expected {root}/{split}/CLASS/*.jpg.\n"
            "Use transfer/detection.py with the data set coco:JSON:IMAGES."
        )
    message = (
        f"{root} has no folder {split!r}; expected {root}/{split}/CLASS/*.jpg, "
        f"found: {', '.join(present[:8]) or 'nothing'}"
    )
    others = ("val", "test", "validation", "valid", "train", "training")
    near = [name for name in present if name.lower() in others and (root / name).is_dir()]
    option = "--train-split" if split.lower().startswith("train") else "--val-split"
    fitting = [name for name in near if name.lower().startswith("train") == (option[2] == "t")]
    return message + (f".\nGive another name with {option} {fitting[0]}" if fitting else "")
