"""The images of the gate: a small bank and its queries, both drawn from the training split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msbreg.data.sources import (
    EMBEDDED,
    SOURCES,
    data_root,
    folder_splits,
    recognized,
    split_layout,
)
from msbreg.run.errors import UserError

MOST_CLASSES = 50
"""Classes to draw. With more, a bank of 1,000 images has too few of each for 20 neighbors."""
FEWEST_IMAGES = 4
"""Classes with fewer images are not drawn: none could be held out."""


@dataclass(frozen=True)
class Drawn:
    """Indices of the drawn images.

    Attributes:
        bank: (N,) images whose features are searched.
        queries: (Q,) images to classify; empty if the labels are not usable.
        reason: why the labels are not usable; empty if they are.
    """

    bank: np.ndarray
    queries: np.ndarray
    reason: str = ""


def training_split(data: str, given: str | None) -> tuple[str, str]:
    """The layout of a data set and the name of its training split.

    Args:
        data: as in ``open_source``; a folder without a layout is recognized.
        given: the split to take; None is the first whose name starts with ``train``.

    Raises:
        UserError: the data do not exist or have no training split, or ``given`` is a split for testing.
    """
    layout, folder = split_layout(data)
    root = data_root(folder, layout or "folder")
    if not layout:
        layout = "folder" if folder in EMBEDDED else recognized(root) or "folder"
    if given is not None:
        if given.lower().startswith(("test", "val")):
            raise UserError(
                f"train_split is {given!r}; expected a split for training, because the gate looks at no test "
                "images"
            )
        return layout, given
    splits = SOURCES[layout].splits(root)
    if layout == "flat":  # without folders of splits, all images below the folder
        splits = folder_splits(root) or ("",)
    training = [name for name in splits if name.lower().startswith("train") or not name]
    if not training:
        raise UserError(
            f"{data} has no training split{_found(splits, root)}. The gate looks at no test images: give "
            "the data that a protocol is trained on, or the name of a split with --train-split"
        )
    return layout, training[0]


def _found(splits: tuple[str, ...], root: Path) -> str:
    return f", only {', '.join(splits)}" if splits else f"; expected {root}/train/CLASS/*.jpg"


def draw(
    labels: np.ndarray | None,  # (N,) class indices, or (N, C) for several labels per image
    images: int,
    *,
    bank: int,
    queries: int,
    generator: np.random.Generator,
) -> Drawn:
    """Draw about ``bank`` + ``queries`` images, with equally many of each of up to ``MOST_CLASSES`` classes.

    The queries are the last of the drawn images of each class. Files with neighboring names, which may be
    frames of one video or crops of one image, then rarely end up on both sides. Images without any label are
    not drawn if others have several.
    """
    if labels is None:
        reason = "the images have no labels"
        return Drawn(np.sort(generator.permutation(images)[:bank]), np.empty(0, int), reason)
    if labels.ndim == 2:
        groups = [np.flatnonzero((labels == 1).any(1))]
    else:
        counts = np.bincount(labels)
        usable = generator.permutation(np.flatnonzero(counts >= FEWEST_IMAGES))[:MOST_CLASSES]
        groups = [np.flatnonzero(labels == label) for label in np.sort(usable)]
    if not _usable(groups, labels):
        return Drawn(
            np.sort(generator.permutation(images)[:bank]), np.empty(0, int), _why_not(labels)
        )
    each = max(FEWEST_IMAGES, (bank + queries) // len(groups))
    kept, held_out = [], []
    for group in groups:
        members = np.sort(generator.permutation(group)[:each])
        last = max(1, min(round(len(members) * queries / (bank + queries)), len(members) // 2))
        kept.append(members[:-last])
        held_out.append(members[-last:])
    return Drawn(np.concatenate(kept), np.concatenate(held_out))


def _usable(groups: list[np.ndarray], labels: np.ndarray) -> bool:
    if labels.ndim == 2:
        return labels.shape[1] > 1 and len(groups[0]) >= FEWEST_IMAGES
    return len(groups) > 1


def _why_not(labels: np.ndarray) -> str:
    if labels.ndim == 2:
        return f"only {int((labels == 1).any(1).sum())} images have a label, or there is one class"
    several = int((np.bincount(labels) >= FEWEST_IMAGES).sum())
    return f"only {several} classes have {FEWEST_IMAGES} images or more; two are needed"
