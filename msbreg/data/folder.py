"""Folders of images: ImageFolder trees (one folder a class) and flat folders without labels."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from msbreg.run.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


class UnreadableImage(UserError):
    """A file among the images is not one, or is cut short."""


@dataclass(frozen=True)
class ImageList:
    """The images of one split, in a fixed order.

    Attributes:
        root: folder that the paths are relative to.
        paths: one relative path an image.
        labels: class index of each image, or None where the folder has no classes.
        classes: names of the classes, sorted; empty without labels.
        fingerprint: sha256 over names and sizes of the files, in order.
        skipped: relative paths of unreadable files that were left out on request.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode one image."""
        return read_image(self.root / self.paths[index])

    def subset(self, keep: Sequence[int] | np.ndarray, skipped: Sequence[str] = ()) -> "ImageList":
        """The images at these positions, in that order, with a fingerprint of their own."""
        paths = tuple(self.paths[i] for i in keep)
        labels = None if self.labels is None else self.labels[np.asarray(keep, dtype=int)]
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update("\n".join(paths).encode())
        return ImageList(
            self.root,
            paths,
            labels,
            self.classes,
            digest.hexdigest(),
            self.skipped + tuple(skipped),
        )


def list_fingerprint(paths: Sequence[Path]) -> str:
    """sha256 over names and sizes of files, in order, wherever their folder lies."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.name}\0{size}\n".encode())
    return digest.hexdigest()


def read_image(path: Path) -> np.ndarray:  # (H, W, 3) uint8 RGB
    """Decode an image file as 8-bit RGB. EXIF orientation is ignored, as torchvision's readers do.

    Raises:
        UnreadableImage: the file is missing, empty, no image, or ends before the image does.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise UnreadableImage(f"{path} is empty (0 bytes); expected an image")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # more pixels than OpenCV allows, say
        raise UnreadableImage(f"{path} cannot be decoded: {str(error).strip()}") from error
    if image is None:
        raise UnreadableImage(f"{path} is not an image that OpenCV can decode ({len(data)} bytes)")
    # OpenCV fills the missing part of a truncated JPEG or PNG with gray and says nothing. The end
    # markers are cheap to look for; where they are not at the end, a stricter decoder decides.
    end = data[-64:]
    cut_jpeg = data[:2] == b"\xff\xd8" and b"\xff\xd9" not in end
    cut_png = data[:4] == b"\x89PNG" and b"IEND" not in end
    if (cut_jpeg or cut_png) and not _decodes_wholly(data):
        raise UnreadableImage(
            f"{path} is truncated: the file ends before the image ({len(data)} bytes)"
        )
    return image


def _decodes_wholly(data: bytes) -> bool:
    """Whether Pillow, which does not fill in what is missing, decodes the image to its end."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def list_images(folder: Path, *, classes_file: Path | None = None) -> ImageList:
    """The images of a folder: with labels where its sub-folders are classes, without where it is flat.

    Args:
        classes_file: one folder name a line; only those classes are taken, in sorted order.

    Raises:
        UserError: the folder is missing, empty, or mixes both layouts.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; expected a folder of images, or of one folder a class")
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    flat = _images_below(folder, recurse=False)
    if classes and flat:
        raise UserError(
            f"{folder} holds both images ({flat[0][0]}, ...) and folders ({classes[0]}, ...); "
            "expected images only, or one folder a class"
        )
    if classes_file is not None:
        classes = _wanted_classes(classes_file, classes, folder)
    found: list[tuple[str, int]] = flat
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = [(f"{name}/{path}", size) for path, size in _images_below(folder / name)]
        if not inside:
            raise UserError(f"class folder {folder / name} holds no image ({_suffixes()})")
        found += inside
        labels += [label] * len(inside)
    if not found:
        raise UserError(f"{folder} holds no image; expected files ending in {_suffixes()}")
    digest = hashlib.sha256()
    for path, size in found:
        digest.update(f"{path}\0{size}\n".encode())
    return ImageList(
        folder,
        tuple(path for path, _ in found),
        np.array(labels) if classes else None,
        tuple(classes),
        digest.hexdigest(),
    )


def balanced_subset(images: ImageList, count: int, *, seed: int) -> ImageList:
    """``count`` images drawn by the seed, the same number from every class where possible.

    Raises:
        UserError: there are fewer images than that.
    """
    if not 0 < count <= len(images):
        raise UserError(f"{count} images asked of {images.root}, which holds {len(images)}")
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


def without_unreadable(
    images: ImageList, *, progress: Callable[[int, int], None] | None = None, threads: int = 4
) -> ImageList:
    """Decode every image once and leave out the files that are none."""

    def readable(index: int) -> bool:
        try:
            images.read(index)
        except UnreadableImage:
            return False
        return True

    keep: list[int] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for index, good in enumerate(pool.map(readable, range(len(images)))):
            if good:
                keep.append(index)
            else:
                skipped.append(images.paths[index])
            if progress is not None:
                progress(index + 1, len(images))
    if not keep:
        raise UserError(f"none of the {len(images)} files below {images.root} is a readable image")
    return images.subset(keep, skipped) if skipped else images


def _images_below(folder: Path, recurse: bool = True) -> list[tuple[str, int]]:
    """(relative path, bytes) of each image file, sorted by path."""
    found: list[tuple[str, int]] = []
    for entry in os.scandir(folder):
        if entry.is_dir():
            if recurse:
                below = _images_below(Path(entry.path))
                found += [(f"{entry.name}/{path}", size) for path, size in below]
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            # A dangling link has no size; reading it names it.
            found.append((entry.name, entry.stat().st_size if Path(entry.path).exists() else -1))
    return sorted(found)


def _wanted_classes(file: Path, present: list[str], folder: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"classes file {file} does not exist; expected one folder name a line")
    wanted = sorted(set(file.read_text().split()))
    missing = [name for name in wanted if name not in present]
    if missing or not wanted:
        raise UserError(
            f"{file} names {len(wanted)} classes, of which {len(missing)} are no folder of {folder}"
            + (f": {', '.join(missing[:5])}" if missing else "")
        )
    return wanted


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
