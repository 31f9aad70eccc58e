"""STL-10: 96 x 96 images in large binary files, which are read in place.

    ROOT/stl10_binary/{train,test}_{X,y}.bin, unlabeled_X.bin, class_names.txt, fold_indices.txt

(or ROOT itself is stl10_binary). An image is 3 x 96 x 96 bytes: one channel after the other, each stored
column by column. Labels are 1 to 10 in the files, and 0 to 9 here
(Coates et al., AISTATS 2011; cs.stanford.edu/~acoates/stl10).

Splits: ``train``, ``test``, ``unlabeled``, ``train+unlabeled`` (no labels), and ``train-fold0`` to
``train-fold9``, the 1,000 training images of each predefined fold.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from msbreg.data.classification.binary_images import BinaryImages
from msbreg.data.classification.file_lists import (
    NoSplit,
    PublishedSplit,
    WrongLayout,
    check_labels,
    first_folder,
    read_lines,
)
from msbreg.data.folder import file_size
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

SIDE = 96
BYTES = 3 * SIDE * SIDE
# fmt: off
CLASSES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)
# fmt: on
FOLDS = "fold_indices.txt"
STL10 = {
    "train": PublishedSplit(5_000, 10, (500, 500)),
    "test": PublishedSplit(8_000, 10, (800, 800)),
    "unlabeled": PublishedSplit(100_000, 0),
    "train+unlabeled": PublishedSplit(105_000, 0),
    **{f"train-fold{fold}": PublishedSplit(1_000, 10) for fold in range(10)},
}
_SAMPLED = 64  # images whose pixels are a part of the fingerprint


def open_stl10(root: Path, split: str) -> BinaryImages:
    """Images of STL-10 from its binary files.

    Raises:
        WrongLayout: the binary files are not there.
        UserError: the split does not exist, a file is truncated, or a label is out of range.
    """
    base = _binary_folder(root)
    if base is None:
        raise WrongLayout(f"{root} contains no train_X.bin, neither itself nor in stl10_binary/")
    if split not in STL10:
        raise NoSplit(
            f"STL-10 has no split {split!r}; expected train, test, unlabeled, train+unlabeled, or "
            "train-fold0 to train-fold9"
        )
    name, _, fold = split.partition("-fold")
    files = tuple(f"{part}_X.bin" for part in name.split("+"))
    counts = [_image_count(base / file) for file in files]
    starts = np.cumsum([0, *counts])[:-1]
    rows = _fold(base / FOLDS, int(fold), counts[0]) if fold else np.arange(sum(counts))
    labels = _labels(base / f"{name}_y.bin", counts[0])[rows] if STL10[split].classes else None
    classes = _classes(base) if labels is not None else ()
    if labels is not None:
        check_labels(labels, classes, f"{base / name}_y.bin")
    images = BinaryImages(
        labels=labels,
        classes=classes,
        fingerprint="",
        root=base,
        files=files,
        starts=starts,
        rows=rows,
        side=SIDE,
        by_column=True,
    )
    return replace(images, fingerprint=_fingerprint(images))


def stl10_splits(root: Path) -> tuple[str, ...]:
    """The splits below ROOT that have no image in common; empty if ROOT has another layout."""
    base = _binary_folder(root)
    if base is None:
        return ()
    return tuple(
        name for name in ("train", "test", "unlabeled") if (base / f"{name}_X.bin").is_file()
    )


def _binary_folder(root: Path) -> Path | None:
    return first_folder((root, root / "stl10_binary"), "train_X.bin", "test_X.bin")


def _image_count(file: Path) -> int:
    size = file_size(file)
    if size < 0:
        raise UserError(f"{file} does not exist; expected it beside the other files of STL-10")
    if size == 0 or size % BYTES:
        raise UserError(
            f"{file} has {size} bytes; expected a multiple of {BYTES}, the bytes of an image. "
            "Extract stl10_binary.tar.gz again"
        )
    return size // BYTES


def _labels(file: Path, count: int) -> np.ndarray:  # (count,) 0..9
    try:
        with open_regular(file) as opened:
            stored = np.frombuffer(opened.read(), np.uint8)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}; expected one byte per image"
        ) from error
    if len(stored) != count:
        raise UserError(f"{file} has {len(stored)} labels, but there are {count} images")
    if len(wrong := np.flatnonzero((stored < 1) | (stored > len(CLASSES)))):
        raise UserError(
            f"{file}: label {wrong[0]} is {stored[wrong[0]]}; expected 1 to {len(CLASSES)} in the file"
        )
    return stored.astype(np.int64) - 1


def _classes(base: Path) -> tuple[str, ...]:
    """The names in class_names.txt; the published ones if there is no such file."""
    file = base / "class_names.txt"
    if not file.is_file():
        return CLASSES
    names = tuple(line.strip() for line in read_lines(file))
    if len(names) != len(CLASSES):
        raise UserError(f"{file} has {len(names)} names; expected {len(CLASSES)}, one per line")
    return names


def _fold(file: Path, fold: int, images: int) -> np.ndarray:  # (1000,) 0-based
    """The indices on line ``fold`` of fold_indices.txt."""
    lines = read_lines(file)
    try:
        rows = np.array([int(word) for word in lines[fold].split()], np.int64)
    except (IndexError, ValueError) as error:
        raise UserError(
            f"{file} has no fold {fold} ({error}); expected 10 lines of 0-based indices, one per fold"
        ) from error
    if len(rows) != len(np.unique(rows)) or rows.min() < 0 or rows.max() >= images:
        raise UserError(
            f"{file}, line {fold + 1}: indices from {rows.min()} to {rows.max()}; expected distinct ones "
            f"below {images}, the number of training images"
        )
    return rows


def _fingerprint(images: BinaryImages) -> str:
    """sha256 of names, sizes, rows, labels, and the pixels of evenly spaced images.

    The size of the files does not depend on their content, and reading 3 GB takes too long for every start.
    """
    digest = hashlib.sha256()
    for name in images.files:
        digest.update(f"{name}\0{file_size(images.root / name)}\n".encode())
    digest.update(images.rows.astype("<i8").tobytes())
    if images.labels is not None:
        digest.update(images.labels.astype("<i8").tobytes())
    for i in np.unique(np.linspace(0, len(images) - 1, _SAMPLED).astype(int)):
        digest.update(images.image(int(i)).tobytes())
    return digest.hexdigest()
