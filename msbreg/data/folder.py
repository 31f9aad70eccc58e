"""Folders of images: ImageFolder trees with one folder per class, and flat folders without labels.

Written for millions of files: one system call per file, and no object per file that outlives its class.
"""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from msbreg.data.decoding import IMAGE_SUFFIXES, read_image
from msbreg.data.images import LabeledImages
from msbreg.data.packed_paths import NAME_CODEC, PackedPaths
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class ImageList(LabeledImages):
    """The image files of one split in a fixed order.

    Attributes:
        root: folder that the paths are relative to.
        paths: one relative path per image; ``PackedPaths`` if there are many.
        ignored: relative paths of other files, with a suffix that is not in IMAGE_SUFFIXES.
    """

    root: Path
    paths: Sequence[str]
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
        root = str(self.root.absolute())
        for path in self.paths:
            file = os.path.join(root, path)
            try:
                state = os.stat(file)
                seen = f"{state.st_size} {state.st_mtime_ns}"
            except OSError:  # reported when the image is read
                seen = "missing"
            digest.update(f"{file}\0{seen}\n".encode(*NAME_CODEC))
        return digest.hexdigest()

    def select(self, keep: np.ndarray) -> "ImageList":  # (M,)
        packed = self.paths if isinstance(self.paths, PackedPaths) else PackedPaths(self.paths)
        return replace(self, paths=packed.select(keep))

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
        digest.update(f"{path.name}\0{file_size(path)}\n".encode(*NAME_CODEC))
    return digest.hexdigest()


def file_size(path: str | Path) -> int:
    """Bytes of a file, or of the file that a link leads to; -1 if there is no such regular file.

    Raises:
        OSError: access is denied, or the disk or network failed.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return -1
        raise
    return state.st_size if stat.S_ISREG(state.st_mode) else -1


# Path.exists() takes these errors for the absence of a file; ELOOP is a link to itself.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP})


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
    found, ignored = _split_by_suffix(_files_below(folder, recurse=False))
    if classes and found:
        raise UserError(
            f"{folder} contains both images ({found[0][0]}, ...) and folders ({classes[0]}, ...); "
            "expected images only, or one subfolder per class"
        )
    if classes_file is not None:
        classes = _selected_classes(classes_file, classes, folder)
    parts = [PackedPaths(path for path, _ in found)]
    counts: list[int] = []
    digest = hashlib.sha256()
    add_files(digest, found)
    for name in classes:
        inside, others = _split_by_suffix(_files_below(folder / name, f"{name}/"))
        if not inside:
            raise UserError(
                f"class folder {folder / name} contains no images; expected files ending in "
                f"{_suffixes()}{_found_instead(others)}"
            )
        parts.append(PackedPaths(path for path, _ in inside))
        counts.append(len(inside))
        add_files(digest, inside)
        ignored += others
    paths = PackedPaths.joined(parts)
    if not paths:
        raise UserError(
            f"{folder} contains no images; expected files ending in "
            f"{_suffixes()}{_found_instead(ignored)}"
        )
    return ImageList(
        root=folder,
        paths=paths,
        labels=np.repeat(np.arange(len(classes)), counts) if classes else None,
        classes=tuple(classes),
        fingerprint=digest.hexdigest(),
        ignored=tuple(path for path, _ in ignored),
    )


Files = list[tuple[str, int]]  # (relative path, bytes), sorted by path


def _files_below(folder: Path | str, prefix: str = "", recurse: bool = True) -> Files:
    """All files except hidden ones, as paths that start with ``prefix``."""
    found: Files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if _is_folder(entry):
                if recurse:
                    found += _files_below(entry.path, f"{prefix}{name}/")
            elif name[0] != "." or _suffix(name) in IMAGE_SUFFIXES:
                try:
                    size = entry.stat().st_size
                except OSError as error:
                    if error.errno not in _ABSENT:
                        raise
                    size = -1  # a dangling link; it is reported when the image is read
                found.append((prefix + name, size))
    found.sort()
    return found


def add_files(digest: "hashlib._Hash", files: Files) -> None:
    """Add paths and sizes to the fingerprint of a folder."""
    digest.update("".join(f"{path}\0{size}\n" for path, size in files).encode(*NAME_CODEC))


def _suffix(path: str) -> str:
    """``Path(path).suffix.lower()``, without the cost of a Path.

    >>> _suffix("a/b.JPEG"), _suffix("a.b/c"), _suffix("a/.png")
    ('.jpeg', '', '')
    """
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; False for a link to itself, for which is_dir() raises."""
    if entry.is_symlink():
        return os.path.isdir(entry.path)
    return entry.is_dir()


def is_image(path: Path) -> bool:
    """Whether the suffix is that of an image, and the file is not hidden."""
    return path.name[0] != "." and _suffix(path.name) in IMAGE_SUFFIXES


def _split_by_suffix(files: Files) -> tuple[Files, Files]:
    """(images, others)."""
    is_image = [_suffix(path) in IMAGE_SUFFIXES for path, _ in files]
    return (
        [file for file, good in zip(files, is_image, strict=True) if good],
        [file for file, good in zip(files, is_image, strict=True) if not good],
    )


def _found_instead(others: Files) -> str:
    """The end of a message about a folder that contains no images but other files."""
    return f"; found only {len(others)} other files, such as {others[0][0]}" if others else ""


def read_classes(file: Path) -> list[str]:
    """The class names in a file, one per line, sorted.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"classes file {file} cannot be read: {error}; expected one folder name per line"
        ) from error
    return sorted({line.strip() for line in lines if line.strip()})


def _selected_classes(file: Path, present: list[str], folder: Path) -> list[str]:
    wanted = read_classes(file)
    missing = [name for name in wanted if name not in set(present)]
    if not wanted:
        raise UserError(f"{file} lists no classes; expected one or more, one per line")
    if missing:
        raise UserError(missing_classes(folder, missing, len(wanted), file))
    return wanted


def missing_classes(where: Path, missing: Sequence[str], count: int, file: Path) -> str:
    """The message for a folder without some of the ``count`` classes that a file lists."""
    names = ", ".join(name[:60] for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
    return (
        f"{where} does not contain {len(missing)} of the {count} classes listed in {file}: {names}.\n"
        "Expected the images of all of them"
    )


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
