"""Masks as a COCO file spells them: polygons, run lengths, compressed run lengths, each checked.

COCO's instances in one JSON file, any classes and any ids.

As Detectron2 reads them (detectron2/data/datasets/coco.py): images by ascending id, annotations of
an image in the order of the file, labels by ascending category id. Unlike there, what is malformed
is an error and not left out, and numbers are floats even where the file has whole ones, which
Detectron2 keeps as integers and truncates after resizing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.annotated_images import box_problem, check_images, mending, quote
from msbreg.data.run_lengths import check_runs
from msbreg.data.scenes import Box, Instance, Polygons, RunLengths, Scene, Scenes
from msbreg.run.errors import UserError

# ---- Masks as a COCO file spells them: polygons, run lengths, compressed run lengths, each


def read_polygons(rings: list[Any], height: int, width: int) -> Polygons:
    """The rings as floats.

    Corners may lie outside the image, where drawing cuts them off, but not farther than it is long:
    pycocotools walks along every edge, and ends the process at coordinates of 2^30 / 5.

    Raises:
        UserError: a ring is no list of numbers, has fewer than 6, an odd count, or ones out of reach.
    """
    read = []
    reach = max(height, width)
    for number, ring in enumerate(rings, 1):
        try:
            values = np.asarray(ring)
        except ValueError:  # lists of unequal length inside
            values = np.asarray(None)
        if values.ndim != 1 or (len(values) and values.dtype.kind not in "iuf"):
            raise UserError(f"polygon {number} is not a list of numbers x, y, x, y, ...")
        if len(values) < 6 or len(values) % 2:
            raise UserError(
                f"polygon {number} has {len(values)} numbers; "
                "expected an even count of 6 or more: x, y of each corner"
            )
        low, high = values.min(), values.max()
        if not (low >= -reach and high <= 2 * reach):  # nor if one is no number
            raise UserError(
                f"polygon {number} has numbers from {low:g} to {high:g}; expected pixels of an image "
                f"of {width} x {height} (width x height)"
            )
        read.append(tuple(values.astype(np.float64).tolist()))
    return tuple(read)


def read_run_lengths(given: dict[str, Any], height: int, width: int) -> RunLengths:
    """``{"size": [height, width], "counts": ...}`` as it is: compressed if it is a string.

    Raises:
        UserError: the size is not that of the image, or the counts are malformed or do not fill it.
    """
    size, counts = given.get("size"), given.get("counts")
    if size != [height, width]:
        raise UserError(
            f"run lengths have size {size}; expected that of the image, [{height}, {width}]"
        )
    mask = {"size": [height, width], "counts": counts}
    if isinstance(counts, str):
        check_runs([mask], height, width)
    elif not isinstance(counts, list) or any(type(run) is not int or run < 0 for run in counts):
        raise UserError("run lengths have no counts; expected a list of whole numbers or a string")
    elif sum(counts) != height * width:
        raise UserError(
            f"run lengths cover {sum(counts)} pixels; "
            f"expected all {height * width} of an image of size [{height}, {width}]"
        )
    return mask


# ---- COCO's instances in one JSON file, any classes and any ids


FLAT = 0.01  # pixels; COCO's boxes are rounded to hundredths


def coco_scenes(name: str, file: Path, images: Path, *, look_at_images: bool = True) -> Scenes:
    """All images of an instances JSON, those without annotations, too.

    Args:
        name: what the scenes are called.
        file: the JSON.
        images: the folder that ``file_name`` is relative to.
        look_at_images: whether files must be there and of the stated size; scoring needs none.

    Raises:
        UserError: anything is missing, malformed or contradictory; file, entry and field are named.
    """
    content = _read_json(file)
    if look_at_images and not images.is_dir():
        raise UserError(f"{images} is no folder; expected the images of {file}")
    with mending():
        categories = _categories(content["categories"], str(file))
        listed = _images(content["images"], str(file))
        instances = _instances(content["annotations"], listed, categories, str(file))
        scenes = tuple(
            Scene(image_id, images / file_name, height, width, tuple(instances[image_id]))
            for image_id, (file_name, height, width) in sorted(listed.items())
        )
        if look_at_images:
            check_images(scenes, annotated_in=lambda scene: f"{file}: image {scene.id!r}")
    flat = sum(1 for of_image in instances.values() for i in of_image if _has_no_area(i.box))
    doubt = f"{file}: {flat} objects have masks and boxes of no area; training drops them"
    return Scenes(
        name,
        tuple(categories[number] for number in sorted(categories)),
        scenes,
        category_ids=tuple(sorted(categories)),
        annotations=file,
        doubts=(doubt,) if flat else (),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; expected COCO's instances"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is malformed JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{file} is malformed JSON: nested too deep") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f"{file} has no list {key!r}; expected COCO's instances: an object with the lists "
                "images, annotations and categories"
            )
    return content


def _categories(entries: list[Any], file: str) -> dict[int, str]:
    """id -> name."""
    categories: dict[int, str] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{file}: category {number} of {len(entries)}"
        category = _get(entry, "id", int, where)
        if category in categories:
            raise UserError(f"{where}: id {category} is that of {categories[category]!r}, too")
        categories[category] = _get(entry, "name", str, where)
    if not categories:
        raise UserError(f"{file} has no categories; expected one or more")
    return categories


def _images(entries: list[Any], file: str) -> dict[str | int, tuple[str, int, int]]:
    """id -> file name, height, width."""
    images: dict[str | int, tuple[str, int, int]] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{file}: image {number} of {len(entries)}"
        image_id = _get(entry, "id", (int, str), where)
        if image_id in images:
            raise UserError(
                f"{where}: id {image_id!r} is that of {images[image_id][0]}, too; ids must differ"
            )
        height, width = (_get(entry, side, int, where) for side in ("height", "width"))
        if min(height, width) < 1:
            raise UserError(f"{where}: height {height} and width {width}; expected both above 0")
        images[image_id] = (_get(entry, "file_name", str, where), height, width)
    if not images:
        raise UserError(f"{file} lists no images; expected one or more")
    kinds = {type(image_id).__name__ for image_id in images}
    if len(kinds) > 1:
        raise UserError(
            f"{file} has image ids of types {', '.join(sorted(kinds))}; expected one type"
        )
    return images


@dataclass(frozen=True)
class _Annotation:
    """One entry of ``annotations`` beside the size of its image."""

    entry: dict[str, Any]
    where: str
    height: int
    width: int


def _instances(
    entries: list[Any],
    images: dict[str | int, tuple[str, int, int]],
    categories: dict[int, str],
    file: str,
) -> dict[str | int, list[Instance]]:
    """Image id -> its instances."""
    labels = {category: label for label, category in enumerate(sorted(categories))}
    instances: dict[str | int, list[Instance]] = {image_id: [] for image_id in images}
    seen: set[str | int] = set()
    for number, entry in enumerate(entries, 1):
        place = f"{file}: annotation {number} of {len(entries)}"
        annotation_id = _get(entry, "id", (int, str), place)
        where = f"{file}: annotation id {annotation_id!r}"
        if annotation_id in seen:
            raise UserError(f"{where} occurs twice; ids must differ")
        seen.add(annotation_id)
        image_id = _get(entry, "image_id", (int, str), where)
        if image_id not in images:
            raise UserError(f"{where}: image_id {image_id!r} is none of the {len(images)} images")
        file_name, height, width = images[image_id]
        where = f"{where} (image {image_id!r}, {file_name})"
        category = _get(entry, "category_id", int, where)
        if category not in labels:
            known = ", ".join(map(str, sorted(labels)[:20])) + (", ..." if len(labels) > 20 else "")
            raise UserError(
                f"{where}: category_id {category} is none of the {len(labels)} categories: {known}"
            )
        instance = _instance(_Annotation(entry, where, height, width), labels[category])
        instances[image_id].append(instance)
    return instances


def _has_no_area(box: Box) -> bool:
    return box[2] == box[0] or box[3] == box[1]


def _instance(annotation: _Annotation, label: int) -> Instance:
    entry, where = annotation.entry, annotation.where
    if entry.get("ignore", 0):
        raise UserError(f"{where}: ignore is set; expected none (a crowd is marked by iscrowd)")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise UserError(f"{where}: iscrowd is {quote(crowd)}; expected 0 or 1")
    area = entry.get("area")
    if area is not None and type(area) not in (int, float):
        raise UserError(f"{where}: area is {quote(area)}; expected a number")
    mask = _mask(annotation)
    return Instance(
        _box(annotation, mask),
        label,
        mask=mask,
        area=None if area is None else float(area),
        crowd=bool(crowd),
    )


def _box(annotation: _Annotation, mask: Polygons | RunLengths | None) -> Box:
    given = annotation.entry.get("bbox")
    numbers = isinstance(given, list) and all(type(value) in (int, float) for value in given)
    if given is None or not numbers or len(given) != 4:
        raise UserError(
            f"{annotation.where}: bbox is {quote(given)}; expected 4 numbers x, y, width, height"
        )
    left, top, width, height = map(float, given)
    box = (left, top, left + width, top + height)
    problem = box_problem(box, annotation.height, annotation.width)
    if problem and not _is_flat(width, height, mask):
        raise UserError(f"{annotation.where}: bbox {quote(given)} {problem}")
    return box


def _is_flat(width: float, height: float, mask: Polygons | RunLengths | None) -> bool:
    """Whether a box has no area because its polygons have none, as two of train2017's 860,001.

    These are what their annotator drew (annotation 918 is one). Any other box without area
    contradicts its mask, or has none to vouch for it.
    """
    if not isinstance(mask, tuple) or min(width, height) != 0 or max(width, height) == 0:
        return False
    along = slice(0, None, 2) if width == 0 else slice(1, None, 2)
    coordinates = [value for ring in mask for value in ring[along]]
    return max(coordinates) - min(coordinates) <= FLAT


def _mask(annotation: _Annotation) -> Polygons | RunLengths | None:
    # Taken out of the content, which would otherwise hold every polygon of COCO a second time.
    given = annotation.entry.pop("segmentation", None)
    if given is None or given == []:
        return None
    try:
        if isinstance(given, list):
            return read_polygons(given, annotation.height, annotation.width)
        if isinstance(given, dict):
            return read_run_lengths(given, annotation.height, annotation.width)
        raise UserError(f"{quote(given)}; expected a list of polygons or an object of run lengths")
    except UserError as error:
        raise UserError(f"{annotation.where}: segmentation: {error}") from error


def _get(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of the JSON type asked for."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) not in kinds:
        expected = " or ".join({int: "a whole number", str: "a text"}[k] for k in kinds)
        state = f"is {quote(value)}" if value is not None else "is missing"
        raise UserError(f"{where}: {key} {state}; expected {expected}")
    return value
