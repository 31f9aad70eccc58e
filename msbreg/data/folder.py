"""Folders of images: ImageFolder trees with one folder per class, and flat folders without labels."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from msbreg.data.decoding import IMAGE_SUFFIXES, read_image
from msbreg.data.images import LabeledImages
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class ImageList(LabeledImages):
    """The image files of one split in a fixed order.

    Attributes:
        root: folder that the paths are relative to.
        paths: one relative path per image.
        ignored: relative paths of other files, with a suffix that is not in IMAGE_SUFFIXES.
    """

    root: Path
    paths: tuple[str, ...]
    ignored: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def where(self) -> str:
        return str(self.root)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode image i; the EXIF orientation is ignored (see ``decoding``)."""
        return read_image(self.root / self.paths[i])

    def entry(self, i: int) -> str:
        """The relative path of image i."""
        return self.paths[i]

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

    def select(self, keep: np.ndarray) -> "ImageList":  # (M,)
        return replace(self, paths=tuple(self.paths[i] for i in keep))

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
        root=folder,
        paths=tuple(path for path, _ in found),
        labels=np.array(labels) if classes else None,
        classes=tuple(classes),
        fingerprint=digest.hexdigest(),
        ignored=tuple(path for path, _ in ignored),
    )


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
