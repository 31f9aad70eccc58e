"""Fine-grained and small data sets of the transfer tables of SimCLR and BYOL, as they are distributed.

    aircraft    fgvc-aircraft-2013b/data/{images/, variants.txt, images_variant_{train,val,test}.txt}
    birdsnap    {train,test}/CLASS/: mirrors only, because most links of the official list are dead
    caltech101  101_ObjectCategories/CLASS/
    cars        {cars_train/, cars_test/, devkit/*.mat, cars_test_annos_withlabels.mat}, or a mirror
    dtd         dtd/{images/, labels/{train,val,test}{1..10}.txt}
    flowers102  {jpg/, setid.mat, imagelabels.mat}
    food101     food-101/{images/, meta/{classes,train,test}.txt}
    pets        {images/, annotations/{trainval,test}.txt}
    sun397      SUN397/{a/abbey/, ClassName.txt, Training_01.txt, Testing_01.txt}

The named folder may also be the root itself. CIFAR is in ``cifar``, VOC2007 in ``sources``. The counts are
those of the data sets' own papers and of BYOL, arXiv 2006.07733, Table 10.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msbreg.data.classification.file_lists import (
    NoSplit,
    PublishedSplit,
    WrongLayout,
    first_folder,
    listed_images,
    read_lines,
)
from msbreg.data.classification.matlab_files import read_matlab
from msbreg.data.folder import ImageList, list_images
from msbreg.run.errors import UserError


class Listed(NamedTuple):
    """What the list of a split says."""

    folder: Path  # that the paths are relative to
    paths: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    file: Path  # the list, for messages


@dataclass(frozen=True)
class FineGrained:
    """One data set.

    Attributes:
        title: its name in messages.
        folders: where it is relative to the root.
        marker: a file or folder that it contains.
        published: split -> its counts.
        disjoint: the splits that have no image in common.
        read: (folder of the data set, split) -> the list; None if there are only mirrors with class folders.
        mirror: what a user should know about a mirror ``SPLIT/CLASS/``; empty if mirrors are not read.
    """

    title: str
    folders: tuple[str, ...]
    marker: str
    published: Mapping[str, PublishedSplit]
    disjoint: tuple[str, ...]
    read: Callable[[Path, str], Listed] | None
    mirror: str = ""

    def base(self, root: Path) -> Path | None:
        """The folder of the data set as distributed; None if there is none."""
        return first_folder([root / name for name in self.folders], self.marker)


def open_fine_grained(name: str, root: Path, split: str) -> ImageList:
    """Images of one split of the data set ``name`` in ``FINE_GRAINED``.

    Raises:
        WrongLayout: the files are not there.
        MissingImages: some of the listed images are missing.
        UserError: the split does not exist, or a list is invalid.
    """
    one = FINE_GRAINED[name]
    if split not in one.published:
        raise NoSplit(
            f"{one.title} has no split {split!r}; expected one of: {', '.join(one.published)}"
        )
    base = one.base(root)
    if base is not None and one.read is not None:
        found = one.read(base, split)
        return listed_images(
            found.folder,
            found.paths,
            np.array(found.labels, np.int64),
            found.classes,
            list_file=found.file,
        )
    if one.mirror and (root / split).is_dir():
        images = list_images(root / split)
        if images.labels is not None:
            return replace(images, notes=(one.mirror,))
    mirrors = f", nor class folders in {split}/" if one.mirror else ""
    places = ", ".join(folder or "the root itself" for folder in one.folders)
    raise WrongLayout(f"{root} contains no {one.marker} (looked in: {places}){mirrors}")


def fine_grained_splits(name: str, root: Path) -> tuple[str, ...]:
    """The splits that have no image in common; empty if ROOT has another layout."""
    one = FINE_GRAINED[name]
    if one.base(root) is not None and one.read is not None:
        return one.disjoint
    return tuple(s for s in one.disjoint if one.mirror and (root / s).is_dir())


def is_fine_grained(name: str, root: Path) -> bool:
    """Whether the data set is there as distributed; mirrors look like any folder of classes."""
    one = FINE_GRAINED[name]
    return one.read is not None and one.base(root) is not None


# ---- The lists, one function for each data set


def _aircraft(base: Path, split: str) -> Listed:
    """Lines ``1025794 707-320``: an image and its variant, which may contain spaces and slashes."""
    file = base / f"images_variant_{split}.txt"
    classes = tuple(line.strip() for line in read_lines(base / "variants.txt"))
    rows = [line.strip().partition(" ") for line in read_lines(file)]
    labels = _indices([variant for _, _, variant in rows], classes, file)
    return Listed(base / "images", [f"{n}.jpg" for n, _, _ in rows], labels, classes, file)


def _caltech101(base: Path, split: str) -> Listed:
    """30 random training images per class, the others for testing (SimCLR, arXiv 2002.05709, B.8.1).

    The draw of the source is not published. Split ``train`` is that of seed 0, ``train-seed1`` another one.
    The folder BACKGROUND_Google counts as a class, as in the published counts (3,060 + 6,084 images).
    """
    part, _, seed = split.partition("-seed")
    folder = base / "101_ObjectCategories"
    everything = list_images(folder)
    if everything.labels is None:
        raise UserError(f"{folder} contains images but no class folders; expected {folder}/CLASS/")
    chosen: list[int] = []
    for label, name in enumerate(everything.classes):
        members = np.flatnonzero(everything.labels == label)
        if len(members) <= CALTECH_TRAIN:
            raise UserError(
                f"{folder / name} has {len(members)} images; expected more than {CALTECH_TRAIN}, the number "
                "of training images per class"
            )
        order = np.random.default_rng((int(seed or 0), label)).permutation(len(members))
        drawn = order[:CALTECH_TRAIN] if part == "train" else order[CALTECH_TRAIN:]
        chosen += members[np.sort(drawn)].tolist()
    paths = [everything.paths[i] for i in chosen]
    labels = everything.labels[chosen].tolist()
    return Listed(folder, paths, labels, everything.classes, folder)


CALTECH_TRAIN = 30


def _cars(base: Path, split: str) -> Listed:
    """``annotations`` with the fields fname and class (1-based), and ``class_names`` of cars_meta.mat."""
    with_labels = "cars_test_annos_withlabels.mat"
    names = {"train": "devkit/cars_train_annos.mat", "test": with_labels}
    file = base / names[split]
    if split == "test" and not file.is_file() and (base / "devkit" / with_labels).is_file():
        file = base / "devkit" / with_labels
    classes = tuple(read_matlab(base / "devkit/cars_meta.mat", "class_names", str))
    paths = read_matlab(file, "annotations", str, field="fname")
    labels = read_matlab(file, "annotations", int, field="class")
    return Listed(base / f"cars_{split}", paths, [label - 1 for label in labels], classes, file)


def _dtd(base: Path, split: str) -> Listed:
    """Lines ``banded/banded_0002.jpg``. Split ``train`` is that of partition 1, ``train2`` of partition 2."""
    file = base / "labels" / f"{split if split[-1].isdigit() else split + '1'}.txt"
    classes = _folders(base / "images")
    paths = [line.strip() for line in read_lines(file)]
    labels = _indices([path.partition("/")[0] for path in paths], classes, file)
    return Listed(base / "images", paths, labels, classes, file)


def _flowers102(base: Path, split: str) -> Listed:
    """1-based image numbers in setid.mat, and a label 1 to 102 of each image in imagelabels.mat."""
    file = base / "setid.mat"
    numbers = read_matlab(file, {"train": "trnid", "val": "valid", "test": "tstid"}[split], int)
    everything = read_matlab(base / "imagelabels.mat", "labels", int)
    if numbers and not 1 <= min(numbers) <= max(numbers) <= len(everything):
        raise UserError(
            f"{file} has image numbers from {min(numbers)} to {max(numbers)}; expected 1 to "
            f"{len(everything)}, the number of labels in imagelabels.mat"
        )
    # The files have no names of the classes.
    classes = tuple(str(number) for number in range(1, max(everything, default=0) + 1))
    paths = [f"image_{number:05d}.jpg" for number in numbers]
    labels = [everything[number - 1] - 1 for number in numbers]
    return Listed(base / "jpg", paths, labels, classes, file)


def _food101(base: Path, split: str) -> Listed:
    """Lines ``apple_pie/1005649``, without the suffix."""
    file = base / "meta" / f"{split}.txt"
    classes = tuple(line.strip() for line in read_lines(base / "meta/classes.txt"))
    names = [line.strip() for line in read_lines(file)]
    labels = _indices([name.partition("/")[0] for name in names], classes, file)
    return Listed(base / "images", [f"{name}.jpg" for name in names], labels, classes, file)


def _pets(base: Path, split: str) -> Listed:
    """Lines ``Abyssinian_100 1 1 1``: image, class (1-based), species, breed within the species."""
    file = base / "annotations" / f"{split}.txt"
    names: dict[int, str] = {}
    paths, labels = [], []
    for number, line in enumerate(read_lines(file), 1):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"((.+)_\d+) (\d+) \d+ \d+", line.strip())
        if match is None or names.setdefault(int(match[3]), match[2]) != match[2]:
            raise UserError(
                f"{file}:{number} is {line[:60]!r}; expected an image, its class and two numbers, with one "
                "class number for each name"
            )
        paths.append(f"{match[1]}.jpg")
        labels.append(int(match[3]) - 1)
    if sorted(names) != list(range(1, len(names) + 1)):
        raise UserError(f"{file} has the classes {sorted(names)[:50]}; expected 1, 2, 3, ...")
    classes = tuple(names[number] for number in sorted(names))
    return Listed(base / "images", paths, labels, classes, file)


def _sun397(base: Path, split: str) -> Listed:
    """Lines ``/a/abbey/sun_aqvbcqtatdohmwvn.jpg``. ``train`` is partition 1, ``train2`` partition 2."""
    match = re.fullmatch(r"(train|test)(\d*)", split)
    assert match is not None
    part = "Training" if match[1] == "train" else "Testing"
    name = f"{part}_{int(match[2] or 1):02d}.txt"
    lists = first_folder((base, base / "Partitions", base.parent / "Partitions"), name) or base
    names = first_folder((base, lists), "ClassName.txt") or base
    lines = [line.strip().strip("/") for line in read_lines(names / "ClassName.txt")]
    paths = [line.strip().strip("/") for line in read_lines(lists / name)]
    labels = _indices([path.rpartition("/")[0] for path in paths], tuple(lines), lists / name)
    # "a/abbey" -> "abbey"
    classes = tuple(line.partition("/")[2] or line for line in lines)
    return Listed(base, paths, labels, classes, lists / name)


def _indices(names: list[str], classes: tuple[str, ...], file: Path) -> list[int]:
    """The index of each name among the classes."""
    index = {name: i for i, name in enumerate(classes)}
    if unknown := [name for name in names if name not in index]:
        raise UserError(
            f"{file} has the class {unknown[0][:60]!r}, which is none of the {len(classes)} known ones, such "
            f"as {', '.join(classes[:3])}"
        )
    return [index[name] for name in names]


def _folders(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders inside; empty if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; expected one folder of images per class there")
    return tuple(sorted(e.name for e in folder.iterdir() if e.is_dir() and e.name[0] != "."))


# ---- The table


_PARTITIONS = range(1, 11)
_DTD = PublishedSplit(1_880, 47, (40, 40))
_SUN = PublishedSplit(19_850, 397, (50, 50))
_CALTECH_TRAIN = PublishedSplit(3_060, 102, (30, 30))
_CALTECH_TEST = PublishedSplit(6_084, 102)
_MIRROR = (
    "the labels of this mirror are the sorted names of its folders; those of other copies may differ, so use "
    "a classifier only with the copy that it was fitted on"
)

FINE_GRAINED: dict[str, FineGrained] = {
    "aircraft": FineGrained(
        "FGVC Aircraft",
        ("", "data", "fgvc-aircraft-2013b/data"),
        "variants.txt",
        {
            "train": PublishedSplit(3_334, 100, (33, 34)),
            "val": PublishedSplit(3_333, 100, (33, 34)),
            "trainval": PublishedSplit(6_667, 100, (66, 67)),
            "test": PublishedSplit(3_333, 100, (33, 34)),
        },
        ("train", "val", "test"),
        _aircraft,
    ),
    "birdsnap": FineGrained(
        "Birdsnap",
        ("",),
        "images.txt",
        {"train": PublishedSplit(47_386, 500), "test": PublishedSplit(2_443, 500)},
        ("train", "test"),
        None,
        mirror=f"most links of Birdsnap are dead, so copies have different images; {_MIRROR}",
    ),
    "caltech101": FineGrained(
        "Caltech-101",
        ("", "caltech-101", "caltech101"),
        "101_ObjectCategories",
        {
            "train": _CALTECH_TRAIN,
            "test": _CALTECH_TEST,
            **{f"train-seed{seed}": _CALTECH_TRAIN for seed in _PARTITIONS},
            **{f"test-seed{seed}": _CALTECH_TEST for seed in _PARTITIONS},
        },
        ("train", "test"),
        _caltech101,
    ),
    "cars": FineGrained(
        "Stanford Cars",
        ("", "stanford_cars"),
        "devkit/cars_meta.mat",
        {"train": PublishedSplit(8_144, 196), "test": PublishedSplit(8_041, 196)},
        ("train", "test"),
        _cars,
        mirror=_MIRROR,
    ),
    "dtd": FineGrained(
        "DTD",
        ("", "dtd", "dtd/dtd"),
        "labels/train1.txt",
        dict.fromkeys(
            ["train", "val", "test"]
            + [f"{part}{n}" for n in _PARTITIONS for part in ("train", "val", "test")],
            _DTD,
        ),
        ("train", "val", "test"),
        _dtd,
    ),
    "flowers102": FineGrained(
        "Oxford Flowers 102",
        ("", "flowers-102"),
        "setid.mat",
        {
            "train": PublishedSplit(1_020, 102, (10, 10)),
            "val": PublishedSplit(1_020, 102, (10, 10)),
            "test": PublishedSplit(6_149, 102),
        },
        ("train", "val", "test"),
        _flowers102,
    ),
    "food101": FineGrained(
        "Food-101",
        ("", "food-101"),
        "meta/classes.txt",
        {
            "train": PublishedSplit(75_750, 101, (750, 750)),
            "test": PublishedSplit(25_250, 101, (250, 250)),
        },
        ("train", "test"),
        _food101,
    ),
    "pets": FineGrained(
        "Oxford-IIIT Pets",
        ("", "oxford-iiit-pet"),
        "annotations/trainval.txt",
        {"trainval": PublishedSplit(3_680, 37), "test": PublishedSplit(3_669, 37)},
        ("trainval", "test"),
        _pets,
    ),
    "sun397": FineGrained(
        "SUN397",
        ("", "SUN397"),
        "ClassName.txt",
        dict.fromkeys(
            ["train", "test"] + [f"{part}{n}" for n in _PARTITIONS for part in ("train", "test")],
            _SUN,
        ),
        ("train", "test"),
        _sun397,
    ),
}
