"""``LabelMaps``: the images of one split, each with a label map of its own size.

A label is the index of a class; VOID marks pixels that are neither trained on nor scored. Values stored in
files are translated on reading, so that no converted copy of a data set is needed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from msbreg.data.decoding import image_size, read_label_map
from msbreg.data.folder import ImageList, file_size
from msbreg.data.images import in_order
from msbreg.data.packed_paths import NAME_CODEC, PackedPaths
from msbreg.run.errors import UserError

VOID = 255
"""Label of pixels that are neither trained on nor scored."""
INVALID = 254
"""In a table: a stored value that is not a label."""


@dataclass(frozen=True)
class LabelMaps(ImageList):
    """The images of one split, each with a label map in another file; an ``ImageSource``.

    Attributes:
        map_root: folder that the paths of label maps are relative to.
        maps: one relative path per image.
        table: (256,) uint8, stored value -> label, VOID or INVALID; by default, values are labels.
    """

    map_root: Path
    maps: Sequence[str]
    table: np.ndarray | None = field(default=None, kw_only=True)

    def label(self, i: int) -> np.ndarray:  # (H, W) uint8
        """Read the label map of image i.

        Raises:
            UserError: a value is not a label, or the map cannot be decoded.
        """
        stored = read_label_map(self.map_root / self.maps[i])
        table = identity(len(self.classes)) if self.table is None else self.table
        labels: np.ndarray = table[stored]
        if (labels == INVALID).any():
            wrong = np.unique(stored[labels == INVALID])
            raise UserError(
                f"label map {self.map_name(i)} has the value {wrong[-1]}; expected labels of the "
                f"{len(self.classes)} classes, or {VOID} for void"
            )
        return labels

    def map_name(self, i: int) -> str:
        """The path of label map i, for messages."""
        return str(self.map_root / self.maps[i])

    def sizes(self, i: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of image i and of its label map, from their headers."""
        return image_size(self.root / self.paths[i]), image_size(self.map_root / self.maps[i])

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        return replace(
            self,
            paths=PackedPaths(self.paths[i] for i in keep.tolist()),
            maps=PackedPaths(self.maps[i] for i in keep.tolist()),
        )


def identity(classes: int) -> np.ndarray:  # (256,) uint8
    """The table of label maps that store labels as they are."""
    table = np.full(256, INVALID, np.uint8)
    table[:classes] = np.arange(classes)
    table[VOID] = VOID
    return table


def paired(
    root: Path,
    paths: Sequence[str],
    map_root: Path,
    maps: Sequence[str],
    classes: tuple[str, ...],
    *,
    table: np.ndarray | None = None,
) -> LabelMaps:
    """Images and label maps in the same order; every file is looked up once.

    Raises:
        UserError: there are none, a file is missing, or there are too many classes.
    """
    if not paths:
        raise UserError(f"{root} contains no images with label maps")
    if not 0 < len(classes) < INVALID:
        raise UserError(f"{root} has {len(classes)} classes; expected 1 to {INVALID - 1}")
    digest = hashlib.sha256("\n".join(classes).encode())
    for folder, names, what in ((root, paths, "image"), (map_root, maps, "label map")):
        for name in names:
            if (size := file_size(folder / name)) < 0:
                raise UserError(
                    f"{what} {folder / name} is missing; expected an image and a label map for each of the "
                    f"{len(paths)} names of the split"
                )
            digest.update(f"{name}\0{size}\n".encode(*NAME_CODEC))
    return LabelMaps(
        labels=None,
        classes=classes,
        fingerprint=digest.hexdigest(),
        root=root,
        paths=PackedPaths(paths),
        map_root=map_root,
        maps=PackedPaths(maps),
        table=table,
    )


# ---- Checks before any computation


@dataclass(frozen=True)
class Survey:
    """What a split contains.

    Attributes:
        pixels: (C,) number of pixels of each class.
        void: indices of the images whose pixels are all void.
    """

    pixels: np.ndarray
    void: np.ndarray


def survey(
    source: LabelMaps,
    *,
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read every label map once, and the sizes of the images.

    Raises:
        UserError: a map has another size than its image or an invalid value, all pixels of the split are
            void, or all others have one label although there are several classes.
    """
    pixels, void = np.zeros(len(source.classes), np.int64), []
    for i, found in enumerate(
        in_order(lambda i: pixel_counts(source, i), len(source), threads=threads)
    ):
        pixels += found[: len(source.classes)]
        if not found[: len(source.classes)].any():
            void.append(i)
        progress(i + 1, len(source))
    if not pixels.any():
        raise UserError(
            f"all pixels of the {len(source)} label maps in {source.map_root} are void ({VOID}); "
            "expected labels"
        )
    if problem := only_one_class(source, np.flatnonzero(pixels)):
        raise UserError(problem)
    return Survey(pixels, np.array(void, np.int64))


def only_one_class(source: LabelMaps, present: Sequence[int] | np.ndarray) -> str:
    """What is wrong if a single one of several classes is present, as in masks of 0 and 255; else empty."""
    if len(present) != 1 or len(source.classes) == 1:
        return ""
    return (
        f"all labeled pixels of the {len(source)} label maps in {source.map_root} are "
        f"{source.classes[int(present[0])]}; expected several of the {len(source.classes)} classes.\n"
        f"{VOID} marks void pixels: masks that store a class as {VOID} must store its index instead"
    )


def pixel_counts(source: LabelMaps, i: int) -> np.ndarray:  # (256,) int64
    """Number of pixels of label map i with each label.

    Raises:
        UserError: the map has another size than its image, or an invalid value.
    """
    image, stored = source.sizes(i)
    if image != stored:
        raise UserError(
            f"label map {source.map_name(i)} has {stored[1]} x {stored[0]} pixels (width x height), but "
            f"{source.name(i)} has {image[1]} x {image[0]}; expected equal sizes"
        )
    return np.bincount(source.label(i).ravel(), minlength=256)
