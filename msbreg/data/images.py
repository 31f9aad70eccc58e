"""``LabeledImages``: the images of one split with their labels, whatever the files look like.

Each layout has a subclass that says where the pixels come from. Subsets, held-out parts and checks work for
all of them.
"""

import abc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np

from msbreg.data.decoding import UnreadableImage
from msbreg.data.packed_paths import NAME_CODEC
from msbreg.run.errors import UserError

S = TypeVar("S", bound="LabeledImages")
R = TypeVar("R")


@dataclass(frozen=True)
class LabeledImages(abc.ABC):
    """The images of one split in a fixed order; an ``ImageSource``.

    Attributes:
        labels: (N,) class indices; or (N, C) for multiple labels per image: 1 present, -1 absent, 0 present
            only as difficult objects; or None if the images have no labels.
        classes: class names; empty if the images have no labels.
        fingerprint: identifies names and contents, in order; independent of where the data are stored.
        skipped: entries of unreadable images that were skipped on request.
        notes: sentences about the data that a user should know; reported by whoever opens them.
    """

    labels: np.ndarray | None
    classes: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """The folder or file of the data, for messages."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode image i.

        Raises:
            UnreadableImage: its content is not an image.
            ImageIOError: it cannot be read.
        """

    @abc.abstractmethod
    def entry(self, i: int) -> str:
        """The name of image i inside the data set, such as its relative path; unique in the split."""

    @abc.abstractmethod
    def name(self, i: int) -> str:
        """The name of image i in messages; its path if it is a file."""

    @abc.abstractmethod
    def cache_key(self) -> str:
        """Identifies the stored files, without reading them; see ``ImageSource``."""

    @abc.abstractmethod
    def select(self, keep: np.ndarray) -> Self:  # (M,) int
        """The images at these indices; labels and fingerprint are those of the whole. Use ``subset``."""

    def ignored_files(self) -> str:
        """A sentence about files that are not part of the split; empty if there are none."""
        return ""

    def label(self, i: int) -> Any:
        """The label of image i: a class index, a vector (C,), or None."""
        return None if self.labels is None else self.labels[i]

    def subset(self, keep: Sequence[int] | np.ndarray) -> Self:
        """The images at these indices, in that order, with a new fingerprint."""
        indices = np.asarray(keep, dtype=np.int64)
        chosen = self.select(indices)
        labels = None if self.labels is None else self.labels[indices]
        digest = hashlib.sha256(self.fingerprint.encode())
        for i in range(len(chosen)):
            entry = chosen.entry(i)
            digest.update((f"\n{entry}" if i else entry).encode(*NAME_CODEC))
        return replace(chosen, labels=labels, fingerprint=digest.hexdigest())

    def without(self, entries: Iterable[str]) -> Self:
        """Drop these images and add them to ``skipped``.

        Raises:
            UserError: no image remains.
        """
        skipped = tuple(entries)
        if not skipped:
            return self
        dropped = set(skipped)
        keep = [i for i in range(len(self)) if self.entry(i) not in dropped]
        if not keep:
            raise UserError(f"none of the {len(self)} files below {self.where} is a readable image")
        return replace(self.subset(keep), skipped=self.skipped + skipped)


def balanced_subset(images: S, count: int, *, seed: int) -> S:
    """A random subset of ``count`` images, with equally many per class as far as possible.

    Raises:
        UserError: there are fewer than ``count`` images.
    """
    if not 0 < count <= len(images):
        raise UserError(
            f"{count} images were requested from {images.where}; expected 1 to {len(images)}, the number "
            "of its images"
        )
    order = np.random.default_rng([seed, count]).permutation(len(images))
    if images.labels is None:
        return images.subset(np.sort(order[:count]))
    # The n-th image of each class comes before the (n+1)-th of any.
    turn = np.empty(len(order), dtype=int)
    for members in _by_class(images.labels[order], len(images.classes)):
        turn[members] = np.arange(len(members))
    return images.subset(np.sort(order[np.argsort(turn, kind="stable")[:count]]))


def held_out_tail(images: S, count: int) -> tuple[S, S]:
    """Split into (rest, tail); the tail contains the last images of each class, about ``count`` in total.

    The tail is taken in the order of file names, not at random: duplicates and adjacent frames, which usually
    have neighboring names, then rarely end up on both sides. A class keeps about half of its images or more.
    """
    assert images.labels is not None
    keep: list[np.ndarray] = []
    tail: list[np.ndarray] = []
    each = max(1, count // len(images.classes))
    for members in _by_class(images.labels, len(images.classes)):
        cut = len(members) - min(each, len(members) // 2)
        cut -= cut % 2  # pairs stay together
        keep.append(members[:cut])
        tail.append(members[cut:])
    return images.subset(np.concatenate(keep)), images.subset(np.concatenate(tail))


def _by_class(
    labels: np.ndarray,  # (N,)
    classes: int,
) -> list[np.ndarray]:
    """The indices of each class, in ascending order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def unreadable(
    images: LabeledImages, *, progress: Callable[[int, int], None] | None = None, threads: int = 4
) -> tuple[str, ...]:
    """Decode every image once; return the entries of those that are not valid images.

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
    for index, good in enumerate(in_order(readable, len(images), threads=threads)):
        if not good:
            found.append(images.entry(index))
        if progress is not None:
            progress(index + 1, len(images))
    return tuple(found)


def in_order(function: Callable[[int], R], count: int, *, threads: int) -> Iterator[R]:
    """Yield ``function(0)``, ..., ``function(count - 1)``, computed by several threads.

    Only a few thousand calls are scheduled at a time: those of a whole data set would take gigabytes.

    >>> list(in_order(lambda i: i * i, 5, threads=2))
    [0, 1, 4, 9, 16]
    """
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, BLOCK):
            yield from pool.map(function, range(start, min(start + BLOCK, count)))


BLOCK = 2048


def content_hash(
    pixels: np.ndarray,  # (H, W, 3) uint8
) -> int:
    """A 64-bit hash of a decoded image; copies have equal hashes, whatever their file format.

    Among the 1.3 million images of ImageNet, two different ones share a hash with probability 5e-8.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8)
    digest.update(repr(pixels.shape).encode())
    return int.from_bytes(digest.digest(), "little")
