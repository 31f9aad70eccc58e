"""PASCAL VOC's layout on the disk, any classes: image-level labels from ImageSets/Main."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msbreg.errors import UserError


@dataclass(frozen=True)
class ImageLabels:
    """Which classes an image shows.

    Attributes:
        paths: the N images.
        classes: the C names, in alphabetical order.
        labels: (N, C) int8: 1 present, -1 absent, 0 present as ``difficult`` objects only.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: np.ndarray


def find_voc(root: Path, year: int = 2007) -> Path:
    """The folder that holds ImageSets/: ROOT itself, ROOT/VOC2007 or ROOT/VOCdevkit/VOC2007.

    A ROOT whose name is of another year (VOC2012) is not taken itself.

    Raises:
        UserError: none of them does.
    """
    places = [root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"]
    other_year = re.fullmatch(rf"VOC(?!{year})\d{{4}}", root.resolve().name)
    if not other_year:
        places.insert(0, root)
    for place in places:
        if (place / "ImageSets" / "Main").is_dir():
            return place
    raise UserError(
        f"no VOC layout at {root}; expected ImageSets/Main in one of: {', '.join(map(str, places))}"
    )


def image_labels(root: Path, split: str) -> ImageLabels:
    """Labels of a split from the files ``<class>_<split>.txt``, as the devkit has them.

    Raises:
        UserError: no such files, a line that is not ``id label``, files that disagree on the images,
            or an image that is not in JPEGImages.
    """
    voc = find_voc(root)
    main = voc / "ImageSets" / "Main"
    ending = f"_{split}.txt"
    files = sorted(file for file in main.iterdir() if file.name.endswith(ending))
    if not files:
        raise UserError(f"{main} holds no <class>{ending}; expected one such file for each class")
    columns = [_read_labels(file) for file in files]
    ids = list(columns[0])
    if not ids:
        raise UserError(
            f"{files[0]} is empty; expected one line 'id label' for each image of {split}"
        )
    for file, column in zip(files, columns, strict=True):
        if list(column) != ids:
            raise UserError(
                f"{file} and {files[0].name} list different images; "
                "expected the same ids in the same order in each class's file"
            )
    paths = tuple(voc / "JPEGImages" / f"{name}.jpg" for name in ids)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(ids)} images of {split} are missing: {missing[0]}"
        )
    labels = np.array([[column[name] for column in columns] for name in ids], dtype=np.int8)
    return ImageLabels(paths, tuple(file.name.removesuffix(ending) for file in files), labels)


def _read_labels(file: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("1", "-1", "0"):
            raise UserError(f"{file}:{number} is {line!r}; expected an image id and 1, 0 or -1")
        if words[0] in labels:
            raise UserError(f"{file}:{number} lists the image {words[0]} a second time")
        labels[words[0]] = int(words[1])
    return labels
