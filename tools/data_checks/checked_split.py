"""The result of checking one split of a data set, and the loop over its images."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from msbreg.data.decoding import ImageIOError
from msbreg.data.images import content_hash, in_order
from msbreg.run.errors import UserError

R = TypeVar("R")

TOLERATED_COPIES = 0.01
"""Share of copies in a split that the frozen protocols accept, because public data sets have a few."""
PAIRS_SHOWN = 3
THREADS = min(16, os.cpu_count() or 1)


@dataclass
class Split:
    """The result of checking one split.

    Attributes:
        labels: class -> images, or objects (voc, coco); index -> images (segmentation).
        classes: names in the order of their labels.
        problems: anything that a protocol would reject or silently get wrong.
        warnings: differences from the published data set.
        notes: anything unusual that does no harm.
        files: names of the files, used to compare splits with boxes.
        hashes: (N,) uint64 of the decoded images, 0 for those that cannot be decoded.
        name_of: index -> name of an image in messages; its path if it is a file.
        fingerprint: what records of classification protocols cite; empty if the split cannot be opened.
        boxes_fingerprint: what records of detection cite.
    """

    layout: str
    name: str
    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    name_of: Callable[[int], str] = "image {}".format
    fingerprint: str = ""
    boxes_fingerprint: str = ""


def check_each(check: Callable[[int], R], count: int, split: Split) -> list[R | None]:
    """Run a check on every index, in parallel and with a progress bar.

    Returns the results, with None in place of each exception, which becomes a problem of the split.
    """
    from msbreg.run.progress import Progress  # imports rich

    def caught(i: int) -> tuple[R | None, str]:
        try:
            return check(i), ""
        except (UserError, ImageIOError) as error:
            return None, str(error)
        except (OSError, SyntaxError, ValueError) as error:
            return None, f"image {i}: {error}"

    results: list[R | None] = []
    with Progress(f"{split.layout} {split.name}", count, unit="images") as progress:
        for done, (result, problem) in enumerate(in_order(caught, count, threads=THREADS), 1):
            results.append(result)
            if problem:
                split.problems.append(problem)
            progress.update(done)
    return results


def check_contents(read: Callable[[int], np.ndarray], count: int, split: Split) -> None:
    """Decode every image into ``split.hashes``; those that cannot be decoded become problems."""
    found = check_each(lambda i: content_hash(read(i)), count, split)
    split.hashes = np.array([value or 0 for value in found], np.uint64)
    valid = split.hashes[split.hashes != 0]
    if repeated := len(valid) - len(np.unique(valid)):
        split.notes.append(f"images that are copies of others in {split.name}: {repeated}")


def compare_contents(split: Split, other: Split) -> None:
    """Report images of ``split`` that are also in ``other``, whatever their names are."""
    copies = np.flatnonzero(np.isin(split.hashes, other.hashes[other.hashes != 0]))
    if not len(copies):
        return
    pairs = [
        f"{split.name_of(int(i))} = {other.name_of(int((other.hashes == split.hashes[i]).argmax()))}"
        for i in copies[:PAIRS_SHOWN]
    ]
    more = ", ..." if len(copies) > len(pairs) else ""
    found = f"copies of images in {other.name}: {len(copies)}: {', '.join(pairs)}{more}"
    few = len(copies) <= TOLERATED_COPIES * len(split.hashes)
    (split.warnings if few else split.problems).append(found)
