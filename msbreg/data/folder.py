"""Folders of images: ImageFolder trees (one folder a class) and flat folders without labels."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.decoding import IMAGE_SUFFIXES, UnreadableImage, read_image
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class ImageList:
    """The image files of one split, in a fixed order: an ``ImageSource``.

    Attributes:
        root: folder that the paths are relative to.
        paths: one relative path per image.
        labels: (N,) class index of each image; (N, C) where an image has several labels, 1 present,
            -1 absent, 0 present as difficult objects only; None where the images have no labels.
        classes: names of the classes; empty without labels.
        fingerprint: sha256 over names and sizes of the files, in order, wherever the folder is.
        skipped: relative paths of unreadable files that were left out on request.
        ignored: relative paths of other files, whose suffix is not one of IMAGE_SUFFIXES.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode one image; EXIF orientation is ignored (see ``decoding``)."""
        return read_image(self.root / self.paths[i])

    def label(self, i: int) -> Any:
        """Class index, row of labels, or None."""
        return None if self.labels is None else self.labels[i]

    def name(self, i: int) -> str:
        """Path of one image."""
        return str(self.root / self.paths[i])

    def cache_key(self) -> str:
        """sha256 over place, size and time of change of each file."""
        digest = hashlib.sha256()
        for path in self.paths:
            file = self.root / path
            try:
                state = file.stat()
                seen = f"{state.st_size} {state.st_mtime_ns}"
            except OSError:  # reading the image reports it
                seen = "missing"
            digest.update(f"{file.absolute()}\0{seen}\n".encode())
        return digest.hexdigest()

    def subset(self, keep: Sequence[int] | np.ndarray) -> "ImageList":
        """The images at these positions, in that order, with a fingerprint of their own."""
        paths = tuple(self.paths[i] for i in keep)
        labels = None if self.labels is None else self.labels[np.asarray(keep, dtype=int)]
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update("\n".join(paths).encode())
        return replace(self, paths=paths, labels=labels, fingerprint=digest.hexdigest())

    def without(self, names: Iterable[str]) -> "ImageList":
        """All images but those with these relative paths, which are kept as ``skipped``.

        Raises:
            UserError: no image is left.
        """
        skipped = tuple(names)
        if not skipped:
            return self
        dropped = set(skipped)
        keep = [i for i, path in enumerate(self.paths) if path not in dropped]
        if not keep:
            raise UserError(f"none of the {len(self)} files below {self.root} is a readable image")
        return replace(self.subset(keep), skipped=self.skipped + skipped)

    def ignored_files(self) -> str:
        """A sentence about files that are not images by their suffix; empty where there are none."""
        if not self.ignored:
            return ""
        suffixes = Counter(Path(path).suffix.lower() or "no suffix" for path in self.ignored)
        kinds = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(5))
        return (
            f"{self.root}: {len(self.ignored)} files are ignored because of their suffix ({kinds}), "
            f"such as {self.ignored[0]}; images end in {_suffixes()}"
        )


def list_fingerprint(paths: Sequence[Path]) -> str:
    """sha256 over names and sizes of files, in order, wherever their folder lies."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.name}\0{size}\n".encode())
    return digest.hexdigest()


def list_images(folder: Path, *, classes_file: Path | None = None) -> ImageList:
    """The images of a folder: with labels where its subfolders are classes, without where it is flat.

    Args:
        classes_file: one folder name per line; only those classes are taken, in sorted order.

    Raises:
        UserError: the folder is missing, empty, or mixes both layouts.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"{folder} {state}; expected a folder of images, or one with a subfolder per class"
        )
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    flat = _files_below(folder, recurse=False)
    found, ignored = _split_by_suffix(flat)
    if classes and found:
        raise UserError(
            f"{folder} contains both images ({found[0][0]}, ...) and folders ({classes[0]}, ...); "
            "expected images only, or one subfolder per class"
        )
    if classes_file is not None:
        classes = _wanted_classes(classes_file, classes, folder)
    labels: list[int] = []
    for label, name in enumerate(classes):
        below = [(f"{name}/{path}", size) for path, size in _files_below(folder / name)]
        inside, others = _split_by_suffix(below)
        if not inside:
            raise UserError(
                f"class folder {folder / name} contains no image; expected files ending in "
                f"{_suffixes()}{_only(others)}"
            )
        found += inside
        ignored += others
        labels += [label] * len(inside)
    if not found:
        raise UserError(
            f"{folder} contains no image; expected files ending in {_suffixes()}{_only(ignored)}"
        )
    digest = hashlib.sha256()
    for path, size in found:
        digest.update(f"{path}\0{size}\n".encode())
    return ImageList(
        folder,
        tuple(path for path, _ in found),
        np.array(labels) if classes else None,
        tuple(classes),
        digest.hexdigest(),
        ignored=tuple(path for path, _ in ignored),
    )


def balanced_subset(images: ImageList, count: int, *, seed: int) -> ImageList:
    """``count`` images drawn by the seed, the same number from every class where possible.

    Raises:
        UserError: there are fewer images than that.
    """
    if not 0 < count <= len(images):
        raise UserError(
            f"{count} images were requested from {images.root}, which has {len(images)}"
        )
    order = np.random.default_rng([seed, count]).permutation(len(images))
    if images.labels is None:
        return images.subset(np.sort(order[:count]))
    # The n-th image of each class comes before the (n+1)-th of any.
    labels = images.labels[order]
    turn = np.empty(len(order), dtype=int)
    for label in range(len(images.classes)):
        members = labels == label
        turn[members] = np.arange(members.sum())
    return images.subset(np.sort(order[np.argsort(turn, kind="stable")[:count]]))


def held_out_tail(images: ImageList, count: int) -> tuple[ImageList, ImageList]:
    """(rest, tail): the last images of each class, about ``count`` in all, and the others.

    The tail is taken in the order of names, not at random: copies and neighbors of an image, which
    names usually put side by side, do not end up on both sides. A class keeps half its images at least.
    """
    assert images.labels is not None
    keep: list[int] = []
    tail: list[int] = []
    each = max(1, count // len(images.classes))
    for label in range(len(images.classes)):
        members = np.flatnonzero(images.labels == label)
        cut = len(members) - min(each, len(members) // 2)
        cut -= cut % 2  # pairs stay together
        keep += members[:cut].tolist()
        tail += members[cut:].tolist()
    return images.subset(keep), images.subset(tail)


def unreadable(
    images: ImageList, *, progress: Callable[[int, int], None] | None = None, threads: int = 4
) -> tuple[str, ...]:
    """Decode every image once; the relative paths of the files that are not images.

    Raises:
        ImageIOError: a file cannot be read, which says nothing about the image.
    """

    def readable(index: int) -> bool:
        try:
            images.image(index)
        except UnreadableImage:
            return False
        return True

    found: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for index, good in enumerate(pool.map(readable, range(len(images)))):
            if not good:
                found.append(images.paths[index])
            if progress is not None:
                progress(index + 1, len(images))
    return tuple(found)


Files = list[tuple[str, int]]  # (relative path, bytes), sorted by path


def _files_below(folder: Path, recurse: bool = True) -> Files:
    """Every file that is not hidden."""
    found: Files = []
    for entry in os.scandir(folder):
        if entry.is_dir():
            if recurse:
                below = _files_below(Path(entry.path))
                found += [(f"{entry.name}/{path}", size) for path, size in below]
        elif entry.name[0] != "." or Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            # A dangling link has no size; reading it reports it.
            found.append((entry.name, entry.stat().st_size if Path(entry.path).exists() else -1))
    return sorted(found)


def _split_by_suffix(files: Files) -> tuple[Files, Files]:
    """(images, others)."""
    is_image = [Path(path).suffix.lower() in IMAGE_SUFFIXES for path, _ in files]
    return (
        [file for file, good in zip(files, is_image, strict=True) if good],
        [file for file, good in zip(files, is_image, strict=True) if not good],
    )


def _only(others: Files) -> str:
    """The end of a sentence about a folder without images that has other files."""
    return f", found only {len(others)} others, such as {others[0][0]}" if others else ""


def _wanted_classes(file: Path, present: list[str], folder: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"classes file {file} cannot be read: {error}; expected one folder name per line"
        ) from error
    wanted = sorted({line.strip() for line in lines if line.strip()})
    missing = [name for name in wanted if name not in set(present)]
    if missing or not wanted:
        raise UserError(
            f"{file} names {len(wanted)} classes, one per line; {len(missing)} of them are not "
            f"folders of {folder}" + (f": {', '.join(missing[:5])}" if missing else "")
        )
    return wanted


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
