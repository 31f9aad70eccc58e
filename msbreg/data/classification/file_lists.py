"""Image files that a list names, and what all readers of published data sets check in the same way."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.folder import ImageList, file_size
from msbreg.data.packed_paths import NAME_CODEC, PackedPaths
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular


class WrongLayout(UserError):
    """A folder does not have the layout of the data set."""


class NoSplit(UserError):
    """The data set has no split of this name."""


class MissingImages(UserError):
    """Some images of a split are missing on the disk.

    Attributes:
        present: the other images, for checks of the data; a score over them would not be comparable.
    """

    def __init__(self, message: str, present: ImageList) -> None:
        super().__init__(message)
        self.present = present

    def __reduce__(self) -> tuple[Any, ...]:  # errors are sent between processes
        return type(self), (str(self), self.present)


@dataclass(frozen=True)
class PublishedSplit:
    """What a split contains as published.

    Attributes:
        images: number of images.
        classes: number of classes; 0 if the images have no labels.
        per_class: smallest and largest number of images per class.
    """

    images: int
    classes: int
    per_class: tuple[int, int] | None = None


def listed_images(
    root: Path,
    paths: Sequence[str],
    labels: np.ndarray,  # (N,)
    classes: tuple[str, ...],
    *,
    list_file: Path,
) -> ImageList:
    """The images that a list names, in its order; every file is looked up once.

    Args:
        paths: relative to ``root``.
        list_file: the list, for messages.

    Raises:
        MissingImages: some of the files are missing.
        UserError: all of them are missing, one is listed twice, a label is out of range, or a class has no
            image.
    """
    if not len(paths):
        raise UserError(f"{list_file} lists no images")
    check_labels(labels, classes, str(list_file))
    if len(set(paths)) < len(paths):
        seen: set[str] = set()
        twice = next(path for path in paths if path in seen or seen.add(path))  # type: ignore[func-returns-value]
        raise UserError(f"{list_file} lists {twice} twice; expected each image once")
    folder = str(root)
    sizes = np.array([file_size(f"{folder}/{path}") for path in paths], np.int64)
    digest = hashlib.sha256()
    for path, size, label in zip(paths, sizes.tolist(), labels.tolist(), strict=True):
        digest.update(f"{path}\0{size}\0{label}\n".encode(*NAME_CODEC))
    images = ImageList(
        root=root,
        paths=PackedPaths(paths),
        labels=labels,
        classes=classes,
        fingerprint=digest.hexdigest(),
    )
    return without_missing(images, sizes < 0, list_file)


def without_missing(
    images: ImageList,
    missing: np.ndarray,  # (N,) bool
    list_file: Path,
) -> ImageList:
    """The images, if none of their files is missing.

    Raises:
        MissingImages: some of the files are missing.
        UserError: all of them are missing.
    """
    absent = np.flatnonzero(missing)
    if not len(absent):
        return images
    message = (
        f"{len(absent)} of the {len(images)} images in {list_file} are missing, the first: "
        f"{images.name(int(absent[0]))}"
    )
    if len(absent) == len(images):
        raise UserError(f"{message}.\nExpected the images below {images.root}")
    raise MissingImages(
        f"{message}.\nExtract the archive again, or download it again.",
        images.subset(np.flatnonzero(~missing)),
    )


def relabeled(
    images: ImageList,
    labels: np.ndarray,  # (N,)
    classes: tuple[str, ...],
) -> ImageList:
    """The images with labels from another file, which become a part of the fingerprint."""
    digest = hashlib.sha256(images.fingerprint.encode())
    digest.update("\n".join(classes).encode() + labels.astype("<i8").tobytes())
    return replace(images, labels=labels, classes=classes, fingerprint=digest.hexdigest())


def check_labels(
    labels: np.ndarray,  # (N,)
    classes: Sequence[str],
    where: str,
) -> None:
    """Check that every label is the index of a class, and that every class has an image.

    Raises:
        UserError: a label is out of range, or a class has no image.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise UserError(
            f"{where}: the label of image {wrong[0]} is {labels[wrong[0]]}, and those of {len(wrong)} images "
            f"are out of range; expected 0 to {len(classes) - 1}"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(empty):
        names = ", ".join(classes[i] for i in empty[:5])
        raise UserError(
            f"{where}: {len(empty)} of the {len(classes)} classes have no image: {names}"
            f"{', ...' if len(empty) > 5 else ''}; expected at least one image of each class"
        )


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, without empty ones.

    Raises:
        UserError: the file cannot be read, or is not UTF-8 text.
    """
    try:
        with open_regular(file) as opened:
            text = opened.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read: {error}; expected a text file with one line per image"
        ) from error
    return [line for line in text.splitlines() if line.strip()]


def first_folder(candidates: Iterable[Path], *names: str) -> Path | None:
    """The first folder that contains one of the names; None if there is none."""
    for folder in candidates:
        if any((folder / name).exists() for name in names):
            return folder
    return None
