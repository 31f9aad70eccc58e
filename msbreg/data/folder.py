"""Folders of images: ImageFolder trees with one folder per class, and flat folders without labels."""

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
    """The image files of one split in a fixed order; an ``ImageSource``.

    Attributes:
        root: folder that the paths are relative to.
        paths: one relative path per image.
        labels: (N,) class indices; or (N, C) for multiple labels per image: 1 present, -1 absent, 0 present
            only as difficult objects; or None if the images have no labels.
        classes: class names; empty if the images have no labels.
        fingerprint: sha256 of the names and sizes of the files, in order; independent of ``root``.
        skipped: relative paths of unreadable files that were skipped on request.
        ignored: relative paths of other files, with a suffix that is not in IMAGE_SUFFIXES.
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
        """Decode image i; the EXIF orientation is ignored (see ``decoding``)."""
        return read_image(self.root / self.paths[i])

    def label(self, i: int) -> Any:
        """The label of image i: a class index, a vector (C,), or None."""
        return None if self.labels is None else self.labels[i]

    def name(self, i: int) -> str:
        """The path of image i."""
        return str(self.root / self.paths[i])

    def cache_key(self) -> str:
        """sha256 of the absolute path, size and modification time of each file."""
        digest = hashlib.sha256()
        for path in self.paths:
            file = self.root / path
            try:
                state = file.stat()
                seen = f"{state.st_size} {state.st_mtime_ns}"
            except OSError:  # reported when the image is read
                seen = "missing"
            digest.update(f"{file.absolute()}\0{seen}\n".encode())
        return digest.hexdigest()

    def subset(self, keep: Sequence[int] | np.ndarray) -> "ImageList":
        """The images at these indices, in that order, with a new fingerprint."""
        paths = tuple(self.paths[i] for i in keep)
        labels = None if self.labels is None else self.labels[np.asarray(keep, dtype=int)]
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update("\n".join(paths).encode())
        return replace(self, paths=paths, labels=labels, fingerprint=digest.hexdigest())

    def without(self, names: Iterable[str]) -> "ImageList":
        """Drop the images with these relative paths and add the paths to ``skipped``.

        Raises:
            UserError: no image remains.
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
        """A sentence about files ignored because of their suffix; empty if there are none."""
        if not self.ignored:
            return ""
        suffixes = Counter(Path(path).suffix.lower() or "no suffix" for path in self.ignored)
        kinds = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(5))
        return (
            f"{self.root}: files ignored because of their suffix: {len(self.ignored)} ({kinds}), "
            f"such as {self.ignored[0]}; supported suffixes: {_suffixes()}"
        )


def list_fingerprint(paths: Sequence[Path]) -> str:
    """sha256 of the names and sizes of files, in order; independent of their folder."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.name}\0{size}\n".encode())
    return digest.hexdigest()


def list_images(folder: Path, *, classes_file: Path | None = None) -> ImageList:
    """List the images of a folder. Subfolders are classes; a flat folder has no labels.

    Args:
        classes_file: file with one folder name per line; only these classes are used, in sorted order.

    Raises:
        UserError: the folder is missing or empty, or contains both images and subfolders.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"{folder} {state}; expected a folder of images, or one with a subfolder per class"
        )
    classes = sorted(e.name for e in os.scandir(folder) if _is_folder(e) and e.name[0] != ".")
    flat = _files_below(folder, recurse=False)
    found, ignored = _split_by_suffix(flat)
    if classes and found:
        raise UserError(
            f"{folder} contains both images ({found[0][0]}, ...) and folders ({classes[0]}, ...); "
            "expected images only, or one subfolder per class"
        )
    if classes_file is not None:
        classes = _selected_classes(classes_file, classes, folder)
    labels: list[int] = []
    for label, name in enumerate(classes):
        below = [(f"{name}/{path}", size) for path, size in _files_below(folder / name)]
        inside, others = _split_by_suffix(below)
        if not inside:
            raise UserError(
                f"class folder {folder / name} contains no images; expected files ending in "
                f"{_suffixes()}{_found_instead(others)}"
            )
        found += inside
        ignored += others
        labels += [label] * len(inside)
    if not found:
        raise UserError(
            f"{folder} contains no images; expected files ending in "
            f"{_suffixes()}{_found_instead(ignored)}"
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
    """A random subset of ``count`` images, with equally many per class as far as possible.

    Raises:
        UserError: there are fewer than ``count`` images.
    """
    if not 0 < count <= len(images):
        raise UserError(
            f"{count} images were requested from {images.root}; expected 1 to {len(images)}, the number "
            "of its images"
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
    """Split into (rest, tail); the tail contains the last images of each class, about ``count`` in total.

    The tail is taken in the order of file names, not at random: duplicates and adjacent frames, which usually
    have neighboring names, then rarely end up on both sides. A class keeps about half of its images or more.
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
    """Decode every image once; return the relative paths of files that are not valid images.

    Raises:
        ImageIOError: a file cannot be read, so it is unknown whether it is a valid image.
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
    """All files except hidden ones."""
    found: Files = []
    for entry in os.scandir(folder):
        if _is_folder(entry):
            if recurse:
                below = _files_below(Path(entry.path))
                found += [(f"{entry.name}/{path}", size) for path, size in below]
        elif entry.name[0] != "." or Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            # A dangling link has no size; it is reported when the image is read.
            found.append((entry.name, entry.stat().st_size if Path(entry.path).exists() else -1))
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; False for a link to itself, for which is_dir() raises."""
    if entry.is_symlink():
        return os.path.isdir(entry.path)
    return entry.is_dir()


def _split_by_suffix(files: Files) -> tuple[Files, Files]:
    """(images, others)."""
    is_image = [Path(path).suffix.lower() in IMAGE_SUFFIXES for path, _ in files]
    return (
        [file for file, good in zip(files, is_image, strict=True) if good],
        [file for file, good in zip(files, is_image, strict=True) if not good],
    )


def _found_instead(others: Files) -> str:
    """The end of a message about a folder that contains no images but other files."""
    return f"; found only {len(others)} other files, such as {others[0][0]}" if others else ""


def _selected_classes(file: Path, present: list[str], folder: Path) -> list[str]:
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
            f"{file} lists {len(wanted)} classes; expected one or more, one per line, all of them folders "
            f"in {folder}"
            + (f". Missing: {', '.join(name[:60] for name in missing[:5])}" if missing else "")
        )
    return wanted


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
