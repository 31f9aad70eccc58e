"""LVIS (Gupta et al., arXiv 1908.03195): COCO's images and layout, with a federation of annotations.

Each class is annotated exhaustively in some images only. Every image lists classes that it does not show
(``neg_category_ids``) and classes of which not all objects are annotated
(``not_exhaustive_category_ids``); of the remaining classes without annotations nothing is known. Images lie
in COCO's folders: the last two parts of ``coco_url`` are their path, as in Detectron2
(detectron2/data/datasets/lvis.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from msbreg.data.annotated_images import quote
from msbreg.data.coco import read_json, scenes_of, without_collection
from msbreg.data.scenes import Federation, Scenes
from msbreg.run.errors import UserError

FREQUENCIES = ("r", "c", "f")
"""Rare (in at most 10 training images), common (at most 100) and frequent classes."""
ABSENT, INCOMPLETE = "neg_category_ids", "not_exhaustive_category_ids"


def lvis_scenes(
    name: str, file: Path, images: Path, *, look_at_images: bool = True, strict: bool = False
) -> Scenes:
    """All images of an LVIS JSON, including those without annotations.

    Args:
        name: name of the scenes.
        file: path of the JSON file.
        images: folder with COCO's train2017 and val2017.
        look_at_images: check that image files exist and have the annotated size; not needed for scoring.
        strict: raise an error for irregular data that Detectron2 accepts.

    Raises:
        UserError: data are missing, malformed or contradictory; the message gives file, entry and field.
    """
    if look_at_images and not images.is_dir():
        raise UserError(f"folder {images} not found; expected the images of {file}")
    with without_collection():
        content = read_json(file)
        for number, entry in enumerate(content["images"], 1):
            _set_file_name(entry, f"{file}: image {number} of {len(content['images'])}")
        scenes = scenes_of(
            content, name, file, images, look_at_images=look_at_images, strict=strict
        )
        return replace(scenes, federation=_federation(content, scenes.category_ids, str(file)))


def _set_file_name(entry: Any, where: str) -> None:
    """Derive ``file_name``, which version 1 does not have, from ``coco_url``."""
    url = entry.get("coco_url") if isinstance(entry, dict) else None
    parts = url.split("/")[-2:] if isinstance(url, str) else []
    if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise UserError(
            f"{where}: coco_url is {quote(url)}; expected an address that ends with folder and file, such "
            "as http://images.cocodataset.org/val2017/000000397133.jpg"
        )
    entry["file_name"] = "/".join(parts)


def _federation(content: Mapping[str, Any], category_ids: tuple[int, ...], file: str) -> Federation:
    labels = {number: label for label, number in enumerate(category_ids)}
    frequencies = dict.fromkeys(category_ids, "")
    for entry in content["categories"]:
        frequency = entry.get("frequency")
        if frequency not in FREQUENCIES:
            raise UserError(
                f"{file}: category {quote(entry['name'])}: frequency is {quote(frequency)}; "
                "expected 'r', 'c' or 'f'"
            )
        frequencies[entry["id"]] = frequency
    listed: dict[str, dict[str | int, frozenset[int]]] = {ABSENT: {}, INCOMPLETE: {}}
    for entry in content["images"]:
        for key, of_image in listed.items():
            given = entry.get(key, [])
            if not isinstance(given, list) or not all(
                type(number) is int and number in labels for number in given
            ):
                raise UserError(
                    f"{file}: image {quote(entry['id'])}: {key} is {quote(given)}; expected a list of "
                    f"ids of the {len(labels)} categories"
                )
            of_image[entry["id"]] = frozenset(labels[number] for number in given)
    return Federation(tuple(frequencies.values()), listed[ABSENT], listed[INCOMPLETE])
