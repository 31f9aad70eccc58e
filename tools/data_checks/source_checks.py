"""Checks of the layouts in ``SOURCES``: every split is opened by the reader that the protocols use."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from msbreg.data.classification.file_lists import MissingImages, PublishedSplit
from msbreg.data.classification.imagenet_variants import VARIANTS
from msbreg.data.images import LabeledImages
from msbreg.data.sources import SOURCES
from msbreg.run.errors import UserError
from tools.data_checks.checked_split import Split, check_contents, compare_contents
from transfer.frozen.frozen_config import LabeledConfig


def check_source(layout: str, root: Path, names: Sequence[str] = ()) -> Iterator[Split]:
    """Check splits of a data set, each against the published one and against those before it.

    Args:
        names: the splits to check; all below ``root`` if empty.

    Raises:
        UserError: the folder has no split of this layout.
    """
    source = SOURCES[layout]
    all_there = not names
    names = names or source.splits(root)
    if not names:
        source(root, next(iter(source.published), "train"))  # the error says what is missing
        raise UserError(f"{root} has no split of the layout {layout}; give its names with --splits")
    checked: list[Split] = []
    for name in names:
        open_split = partial(source, root, name)
        split = _check_images(layout, name, open_split, source.published.get(name))
        for other in checked:
            compare_contents(split, other)
            _compare_classes(split, other)
        checked.append(split)
    if all_there:
        _check_protocol_splits(layout, checked)
    yield from checked


def _check_protocol_splits(layout: str, splits: Sequence[Split]) -> None:
    """Say which splits kNN and linear need, where these are not the ones that they use by default."""
    labeled = [split.name for split in splits if split.labels]
    needed = LabeledConfig.train_split, LabeledConfig.val_split
    if layout in ("voc", *VARIANTS) or not labeled or set(needed) <= set(labeled):
        return
    train = [name for name in labeled if name.lower().startswith("train")]
    scored = [name for name in labeled if name not in train]
    if train and scored:
        options = [
            f"--{option} {name}"
            for option, name, default in (
                ("train-split", train[0], needed[0]),
                ("val-split", scored[-1], needed[1]),
            )
            if name != default
        ]
        splits[0].notes.append(f"kNN and linear need {' '.join(options)}")
        return
    missing, option = (needed[1], "--val-split") if train else (needed[0], "--train-split")
    use = "for pre-training only" if train else "not for training"
    splits[0].warnings.append(
        f"{use}: there is no split {missing!r}; kNN and linear need it, or another with {option}"
    )


def check_folder(root: Path, names: Sequence[str] = ()) -> Iterator[Split]:
    """ROOT/SPLIT/CLASS/*, ROOT/CLASS/* or images alone."""
    if not (names or SOURCES["folder"].splits(root)):
        root = root.absolute()
        root, names = root.parent, (root.name,)
    if any(_has_folders(root / name) for name in names or SOURCES["folder"].splits(root)):
        yield from check_source("folder", root, names)
        return
    for split in check_source("flat", root, names or SOURCES["folder"].splits(root)):
        split.layout = "folder"
        yield split


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(e.is_dir() and e.name[0] != "." for e in folder.iterdir())


def _check_images(
    layout: str,
    name: str,
    open_split: Callable[[], LabeledImages],
    published: PublishedSplit | None,
) -> Split:
    """Open a split and decode all of its images."""
    split = Split(layout, name)
    try:
        images = open_split()
        split.fingerprint = images.fingerprint
    except MissingImages as error:
        split.problems.append(str(error))
        images = error.present
    except UserError as error:
        split.problems.append(str(error))
        return split
    split.images, split.classes, split.name_of = len(images), images.classes, images.name
    if images.labels is not None:
        _count_labels(split, images.labels)
    split.notes += [note for note in (images.ignored_files(), *images.notes) if note]
    if published is not None:
        split.warnings += differences(split, published)
    check_contents(images.image, len(images), split)
    return split


def _count_labels(split: Split, labels: np.ndarray) -> None:
    """Images per class; for several labels per image, those that show the class."""
    several = labels.ndim == 2
    counts = (labels == 1).sum(0) if several else np.bincount(labels, minlength=len(split.classes))
    split.labels.update({name: int(n) for name, n in zip(split.classes, counts, strict=True) if n})


def differences(split: Split, published: PublishedSplit) -> list[str]:
    """How the counts differ from the published ones.

    >>> from collections import Counter
    >>> small = Split("stl10", "train", images=4, classes=("a", "b"), labels=Counter(a=3, b=1))
    >>> differences(small, PublishedSplit(4, 2, (2, 2)))
    ['1 to 3 images per class; the published data set has 2 to 2']
    """
    found = []
    if split.images != published.images:
        found.append(f"{split.images:,} images; the published data set has {published.images:,}")
    if len(split.classes) != published.classes:
        found.append(
            f"{len(split.classes):,} classes; the published data set has {published.classes:,}"
        )
    if published.per_class is not None and split.labels:
        low, high = published.per_class
        least, most = min(split.labels.values()), max(split.labels.values())
        if least < low or most > high:
            found.append(
                f"{least:,} to {most:,} images per class; the published data set has {low:,} to {high:,}"
            )
    return found


def _compare_classes(split: Split, other: Split) -> None:
    """Report classes that only one of two splits has, or another order."""
    if not split.labels or not other.labels or split.classes == other.classes:
        return
    missing = [name for name in other.classes if name not in set(split.classes)]
    extra = [name for name in split.classes if name not in set(other.classes)]
    split.problems += [f"class {name} of {other.name} is missing" for name in missing]
    split.problems += [f"class {name} is missing in {other.name}" for name in extra]
    if not missing and not extra:
        split.problems.append(f"the classes have another order than in {other.name}")
