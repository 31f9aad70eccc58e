"""iNaturalist 2018 (competition data, 8,142 species).

    ROOT/train2018.json, ROOT/val2018.json
    ROOT/train_val2018/Plantae/7477/3b60c9486db1d2ee875f11a669fbde4a.jpg

The folders mix training and validation images, so the split is taken from the json files and never from the
tree. The label is the category_id, 0 to 8141 (github.com/visipedia/inat_comp, 2018).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.classification.file_lists import PublishedSplit, WrongLayout, listed_images
from msbreg.data.folder import ImageList
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

INATURALIST18 = {
    "train": PublishedSplit(437_513, 8_142),
    "val": PublishedSplit(24_426, 8_142, (3, 3)),
}


def open_inaturalist18(root: Path, split: str) -> ImageList:
    """Images of iNaturalist 2018, ``train`` or ``val``, in the order of the json file.

    Raises:
        WrongLayout: there is no json file.
        MissingImages: some of the listed images are missing.
        UserError: the split does not exist, or the json file is invalid.
    """
    if split not in INATURALIST18:
        raise UserError(
            f"iNaturalist 2018 has no split {split!r}; expected train or val. Its test images have no "
            "labels"
        )
    file = root / f"{split}2018.json"
    if not file.is_file():
        raise WrongLayout(
            f"{root} contains no {file.name}; the split of iNaturalist 2018 exists only in that file, "
            "because train_val2018/ mixes training and validation images"
        )
    content = _read(file)
    try:
        classes = _class_names(content["categories"])
        category = _category_of_image(content["annotations"])
        paths = [str(image["file_name"]) for image in content["images"]]
        labels = np.array([category.pop(image["id"]) for image in content["images"]], np.int64)
    except KeyError as error:
        raise UserError(
            f"{file}: {error} is missing; expected categories, images, and annotations with the "
            "category_id of each image"
        ) from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} is not a file of iNaturalist 2018: {error}") from error
    if category:
        raise UserError(
            f"{file}: {len(category)} annotations belong to no image, such as that of image "
            f"{next(iter(category))}"
        )
    return listed_images(root, paths, labels, classes, list_file=file)


def inaturalist18_splits(root: Path) -> tuple[str, ...]:
    """The splits with a json file; empty if ROOT has another layout."""
    return tuple(split for split in INATURALIST18 if (root / f"{split}2018.json").is_file())


def _read(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as opened:
            content = json.loads(opened.read())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read: {error}; expected the json file of the competition"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a json object; expected images, annotations and categories")
    return content


def _class_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """``Plantae/7477`` for category 7477, as in the tree: the published names are obfuscated."""
    names = {c["id"]: f"{c.get('supercategory', '')}/{c['id']}".strip("/") for c in categories}
    if sorted(names) != list(range(len(categories))):
        raise ValueError(f"the ids of its {len(categories)} categories are not 0, 1, 2, ...")
    return tuple(names[i] for i in range(len(names)))


def _category_of_image(annotations: list[dict[str, Any]]) -> dict[Any, int]:
    category = {a["image_id"]: int(a["category_id"]) for a in annotations}
    if len(category) < len(annotations):
        raise ValueError("an image has two annotations; expected one category per image")
    return category
