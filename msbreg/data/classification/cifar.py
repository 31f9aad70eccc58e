"""CIFAR-10 and CIFAR-100 in their binary version, which is read in place.

    ROOT/cifar-10-batches-bin/{data_batch_1.bin, ..., data_batch_5.bin, test_batch.bin, batches.meta.txt}
    ROOT/cifar-100-binary/{train.bin, test.bin, fine_label_names.txt}

(or ROOT itself is that folder). A record is the label, one byte (CIFAR-100: the coarse and the fine label),
and 3 x 32 x 32 bytes: one channel after the other, row by row (Krizhevsky 2009;
cs.toronto.edu/~kriz/cifar.html).
The Python version consists of pickles, which can run code when they are read; it is refused.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msbreg.data.classification.binary_images import BinaryImages
from msbreg.data.classification.file_lists import (
    NoSplit,
    PublishedSplit,
    WrongLayout,
    check_labels,
    read_lines,
)
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

SIDE = 32
PIXELS = 3 * SIDE * SIDE


class _Version(NamedTuple):
    folder: str
    python: str  # folder of the Python version
    names: str  # file of the class names
    before: int  # bytes before the pixels; the last is the label
    files: dict[str, tuple[str, ...]]  # split -> its files


_VERSIONS = {
    "cifar10": _Version(
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
        "batches.meta.txt",
        1,
        {
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
    ),
    "cifar100": _Version(
        "cifar-100-binary",
        "cifar-100-python",
        "fine_label_names.txt",
        2,
        {"train": ("train.bin",), "test": ("test.bin",)},
    ),
}
CIFAR = {
    "cifar10": {
        "train": PublishedSplit(50_000, 10, (5_000, 5_000)),
        "test": PublishedSplit(10_000, 10, (1_000, 1_000)),
    },
    "cifar100": {
        "train": PublishedSplit(50_000, 100, (500, 500)),
        "test": PublishedSplit(10_000, 100, (100, 100)),
    },
}


def open_cifar(name: str, root: Path, split: str) -> BinaryImages:
    """Images of ``cifar10`` or ``cifar100``, ``train`` or ``test``. The fingerprint covers every byte.

    Raises:
        WrongLayout: the binary files are not there.
        UserError: the split does not exist, a file is truncated, or a label is out of range.
    """
    version = _VERSIONS[name]
    base = _folder(version, root)
    if base is None:
        raise WrongLayout(_missing(version, root))
    if split not in version.files:
        raise NoSplit(f"{name} has no split {split!r}; expected train or test")
    classes = tuple(line.strip() for line in read_lines(base / version.names))
    digest = hashlib.sha256()
    labels = []
    for file in version.files[split]:
        records = _records(base / file, version.before + PIXELS)
        digest.update(records.tobytes())
        labels.append(records[:, version.before - 1].astype(np.int64))
    joined = np.concatenate(labels)
    check_labels(joined, classes, f"{base}, {split}")
    return BinaryImages(
        labels=joined,
        classes=classes,
        fingerprint=digest.hexdigest(),
        root=base,
        files=version.files[split],
        starts=np.cumsum([0, *map(len, labels)])[:-1],
        rows=np.arange(len(joined)),
        side=SIDE,
        before=version.before,
    )


def cifar_splits(name: str, root: Path) -> tuple[str, ...]:
    """``train`` and ``test``; empty if ROOT has another layout."""
    base = _folder(_VERSIONS[name], root)
    return tuple(_VERSIONS[name].files) if base is not None else ()


def _folder(version: _Version, root: Path) -> Path | None:
    for base in (root, root / version.folder):
        if (base / version.names).is_file() and (base / version.files["test"][0]).is_file():
            return base
    return None


def _missing(version: _Version, root: Path) -> str:
    python = root / version.python
    hint = ""
    if python.is_dir() or root.name == version.python:
        hint = (
            ".\nThe Python version is there, but it consists of pickles, which can run code; download the "
            "binary version"
        )
    return (
        f"{root} contains no {version.files['test'][0]} with {version.names}, neither itself nor in "
        f"{version.folder}/{hint}"
    )


def _records(file: Path, size: int) -> np.ndarray:  # (N, size) uint8
    try:
        with open_regular(file) as opened:
            stored = np.frombuffer(opened.read(), np.uint8)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}; expected it beside the other files"
        ) from error
    if not len(stored) or len(stored) % size:
        raise UserError(
            f"{file} has {len(stored)} bytes; expected a multiple of {size}, the bytes of an image with its "
            "label. Extract the archive again"
        )
    return stored.reshape(-1, size)
