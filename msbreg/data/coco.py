"""COCO instances in one JSON file, with any classes and ids, and keypoints if the categories define them.

Read like Detectron2 (detectron2/data/datasets/coco.py): images by ascending id, annotations of an image in
the order of the file, labels by ascending category id. Data that Detectron2 drops are dropped at the same
stage and counted (``Oddities``). Data that would crash it raise an error with file, entry and field.

There are three differences. Numbers are always floats; Detectron2 keeps integers and truncates them after
resizing. NaN and infinity, which are not valid JSON, are errors. Two categories with the same id are an
error; Detectron2 would create a class without objects.
"""

import contextlib
import gc
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.annotated_images import (
    BORDER,
    MAX_SIDE,
    Oddities,
    Oddity,
    advising,
    box_oddity,
    check_images,
    quote,
    size_problem,
)
from msbreg.data.coco_variants.keypoints import KeypointSet, keypoint_set, keypoints_of
from msbreg.data.run_lengths import check_runs
from msbreg.data.scenes import Box, Instance, Polygons, RunLengths, Scene, Scenes
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

ImageId = str | int
Mask = Polygons | RunLengths | None
Where = Callable[[int], str]
"""Index of an annotation -> its description in messages."""


def coco_scenes(
    name: str, file: Path, images: Path, *, look_at_images: bool = True, strict: bool = False
) -> Scenes:
    """All images of an instances JSON, including those without annotations.

    Args:
        name: name of the scenes.
        file: path of the JSON file.
        images: folder that ``file_name`` is relative to.
        look_at_images: check that image files exist and have the annotated size; not needed for scoring.
        strict: raise an error for irregular data that Detectron2 accepts.

    Raises:
        UserError: data are missing, malformed or contradictory; the message gives file, entry and field.
    """
    if look_at_images and not images.is_dir():
        raise UserError(f"folder {images} not found; expected the images of {file}")
    with without_collection():
        content = read_json(file)
        return scenes_of(content, name, file, images, look_at_images=look_at_images, strict=strict)


def scenes_of(
    content: dict[str, Any],
    name: str,
    file: Path,
    images: Path,
    *,
    look_at_images: bool = True,
    strict: bool = False,
) -> Scenes:
    """``coco_scenes`` of the content of the JSON file, which is modified."""
    odd = Oddities(file, strict=strict)
    with advising():
        categories = _categories(content["categories"], str(file))
        keypoints = keypoint_set(content["categories"], str(file))
        listed = _images(content["images"], odd)
        instances = _instances(content["annotations"], listed, categories, odd, keypoints)
        scenes = tuple(
            Scene(image_id, images / file_name, height, width, tuple(instances[image_id]))
            for image_id, (file_name, height, width) in sorted(listed.items())
        )
        if look_at_images:
            check_images(scenes, annotated_in=lambda scene: f"{file}: image {scene.id!r}")
    return Scenes(
        name,
        tuple(categories[number] for number in sorted(categories)),
        scenes,
        category_ids=tuple(sorted(categories)),
        annotations=file,
        warnings=odd.sentences(),
        oddities=odd.counts(),
        sized_boxes=True,
        keypoints=keypoints,
    )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Disable the garbage collector: it would take a third of the time, and there are no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # Moves the new objects to the oldest generation. Otherwise, the next collection of the
                # youngest would visit all of them.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def read_json(file: Path) -> dict[str, Any]:
    """Read an object with the lists images, annotations and categories.

    Raises:
        UserError: the file is missing or has another content.
    """
    try:
        with open_regular(file) as opened:
            content = json.loads(opened.read())
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; expected COCO's instances"
        ) from error
    except (
        ValueError
    ) as error:  # also for text that is not UTF-8, and for integers above 4,300 digits
        raise UserError(f"{file} is malformed JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{file} is malformed JSON: nested too deeply") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f"{file} has no list {key!r}; expected COCO's instances: an object with the lists "
                "images, annotations and categories"
            )
    return content


# ---- Categories and images


def _categories(entries: list[Any], file: str) -> dict[int, str]:
    """id -> name."""
    categories: dict[int, str] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{file}: category {number} of {len(entries)}"
        category = _get(entry, "id", int, where)
        if category in categories:
            raise UserError(
                f"{where}: id {category} is already used by {quote(categories[category])}"
            )
        categories[category] = _get(entry, "name", str, where)
    if not categories:
        raise UserError(f"{file} has no categories; expected one or more")
    return categories


def _images(entries: list[Any], odd: Oddities) -> dict[ImageId, tuple[str, int, int]]:
    """id -> file name, height, width."""
    images: dict[ImageId, tuple[str, int, int]] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{odd.source}: image {number} of {len(entries)}"
        image_id = _get(entry, "id", (int, str), where)
        if image_id in images:
            first = quote(images[image_id][0])
            odd.add(Oddity.SAME_IMAGE_ID, f"{where}: id {quote(image_id)}, already used by {first}")
        height, width = (_side(entry, side, where) for side in ("height", "width"))
        if problem := size_problem(height, width):
            raise UserError(f"{where}: {problem}")
        images[image_id] = (_get(entry, "file_name", str, where), height, width)
    if not images:
        raise UserError(f"{odd.source} lists no images; expected one or more")
    kinds = {type(image_id).__name__ for image_id in images}
    if len(kinds) > 1:
        raise UserError(
            f"{odd.source} has image ids of types {', '.join(sorted(kinds))}; expected one type"
        )
    return images


def _side(entry: Any, key: str, where: str) -> int:
    """A height or width; floats such as 640.0, which some programs write, are accepted."""
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    side: int = _get(entry, key, int, where)
    return side


def _get(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The value of a field, which must have the given JSON type."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) not in kinds:
        expected = " or ".join({int: "an integer", str: "a string"}[k] for k in kinds)
        state = f"is {quote(value)}" if value is not None else "is missing"
        raise UserError(f"{where}: {key} {state}; expected {expected}")
    if isinstance(value, str) and not _encodes(value):
        raise UserError(f"{where}: {key} is {quote(value)}, which is not valid Unicode")
    return value


def _encodes(text: str) -> bool:
    """Whether the text has no lone surrogates, which JSON allows but UTF-8 does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- Annotations


@dataclass
class _Columns:
    """The annotations of listed images as columns, so that NumPy can check all boxes at once."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    images: list[ImageId] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # height, width, height, width, ...
    boxes: "array[float]" = field(default_factory=lambda: array("d"))  # x, y, width, height, ...


def _instances(
    entries: list[Any],
    images: dict[ImageId, tuple[str, int, int]],
    categories: dict[int, str],
    odd: Oddities,
    keypoints: KeypointSet | None,
) -> dict[ImageId, list[Instance]]:
    """Image id -> its instances."""
    columns = _columns(entries, images, categories, odd)

    def where(index: int) -> str:
        image_id = columns.images[index]
        at = f"{odd.source}: annotation id {quote(columns.entries[index]['id'])}"
        return f"{at} (image {quote(image_id)}, {quote(images[image_id][0])[1:-1]})"

    boxes = _corners(columns, where, odd)
    masks = _masks(columns, where, odd)
    instances: dict[ImageId, list[Instance]] = {image_id: [] for image_id in images}
    rows = zip(columns.entries, columns.images, columns.labels, boxes, masks, strict=True)
    for index, (entry, image_id, label, box, mask) in enumerate(rows):
        area, crowd = entry.get("area"), entry.get("iscrowd", 0)
        if type(area) is not float and area is not None:
            area = _area(area, where(index), odd)
        if crowd != 0 or type(crowd) is not int:
            crowd = _crowd(crowd, where(index), odd)
        if entry.get("ignore", 0):
            raise UserError(
                f"{where(index)}: ignore is set, which Detectron2 does not support; remove it, or use "
                "iscrowd to mark a crowd"
            )
        points = None if keypoints is None else keypoints_of(entry, keypoints, where(index))
        instances[image_id].append(
            Instance(box, label, mask=mask, area=area, crowd=bool(crowd), keypoints=points)
        )
    return instances


def _columns(
    entries: list[Any],
    images: dict[ImageId, tuple[str, int, int]],
    categories: dict[int, str],
    odd: Oddities,
) -> _Columns:
    """Collect the annotations of listed images with their image, label and box."""
    labels = {category: label for label, category in enumerate(sorted(categories))}
    columns = _Columns()
    seen: set[ImageId] = set()
    for number, entry in enumerate(entries, 1):
        try:
            annotation_id, image_id = entry["id"], entry["image_id"]
            known = image_id in images
        except (KeyError, TypeError):
            known = False
        if not known:
            place = f"{odd.source}: annotation {number} of {len(entries)}"
            annotation_id = _get(entry, "id", (int, str), place)
            place = f"{odd.source}: annotation id {quote(annotation_id)}"
            image_id = quote(_get(entry, "image_id", (int, str), place))
            odd.add(
                Oddity.OTHER_IMAGE,
                f"{place}: image_id {image_id} is not the id of any of the {len(images)} images",
            )
            continue
        try:
            if annotation_id in seen:
                raise UserError(
                    f"{odd.source}: annotation id {quote(annotation_id)} occurs twice; ids must be unique"
                )
            seen.add(annotation_id)
            label = labels[entry["category_id"]]
            bbox = entry["bbox"]
            if len(bbox) != 4:
                raise TypeError
            columns.boxes.fromlist(bbox)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise _malformed(entry, images[image_id][0], labels, odd) from error
        _, height, width = images[image_id]
        columns.entries.append(entry)
        columns.images.append(image_id)
        columns.labels.append(label)
        columns.sizes += (height, width)
    return columns


def _malformed(
    entry: dict[str, Any], file_name: str, labels: dict[int, int], odd: Oddities
) -> UserError:
    """The error for an annotation with an invalid label or box."""
    annotation_id = _get(entry, "id", (int, str), f"{odd.source}: annotation")
    where = (
        f"{odd.source}: annotation id {quote(annotation_id)} (image {quote(entry['image_id'])}, "
    )
    where += f"{quote(file_name)[1:-1]})"
    category = _get(entry, "category_id", int, where)
    if category not in labels:
        known = ", ".join(map(str, sorted(labels)[:20])) + (", ..." if len(labels) > 20 else "")
        return UserError(
            f"{where}: category_id {quote(category)} is unknown; expected one of the {len(labels)} "
            f"categories: {known}"
        )
    return UserError(
        f"{where}: bbox is {quote(entry.get('bbox'))}; expected 4 numbers x, y, width, height"
    )


def _corners(columns: _Columns, where: Where, odd: Oddities) -> list[Box]:
    """The boxes as XYXY."""
    given = np.frombuffer(columns.boxes, dtype=np.float64).reshape(-1, 4)
    sizes = np.array(columns.sizes, dtype=np.float64).reshape(-1, 2)
    boxes = given.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        boxes[:, 2:] += given[:, :2]
        beyond = np.maximum(-given[:, :2].min(axis=1), (boxes[:, 2:] - sizes[:, ::-1]).max(axis=1))
        unusual = (given[:, 2:].min(axis=1) <= 0) | ~(beyond <= BORDER)
    for index in np.flatnonzero(unusual).tolist():
        bbox = f"{where(index)}: bbox {quote(columns.entries[index]['bbox'])}"
        if not np.isfinite(boxes[index]).all():
            raise UserError(f"{bbox} is not finite")
        box_width, box_height = given[index, 2:].tolist()
        kind = box_oddity(box_width, box_height, float(beyond[index]))
        if kind is not None:
            odd.add(kind, bbox)
    return [(left, top, right, bottom) for left, top, right, bottom in boxes.tolist()]


def _area(value: Any, where: str, odd: Oddities) -> float | None:
    if type(value) is int and abs(value) < 2**63:
        return float(value)
    odd.add(Oddity.NO_AREA, f"{where}: area is {quote(value)}")
    return None


def _crowd(value: Any, where: str, odd: Oddities) -> bool:
    if value not in (0, 1):
        if type(value) not in (int, float):
            raise UserError(f"{where}: iscrowd is {quote(value)}; expected 0 or 1")
        odd.add(Oddity.CROWD_VALUE, f"{where}: iscrowd is {quote(value)}")
    return bool(value)


# ---- Masks: polygons, run lengths, compressed run lengths


REACH = 2 * MAX_SIDE
"""Largest coordinate of a polygon. Corners may be outside the image, where rasterization clips them, but
pycocotools traverses every edge and crashes at 2^30 / 5."""


def _masks(columns: _Columns, where: Where, odd: Oddities) -> list[Mask]:
    """The mask of each annotation."""
    masks: list[Mask] = []
    for index, entry in enumerate(columns.entries):
        # Removed from the parsed JSON, so that the polygons are not kept in memory twice.
        given = entry.pop("segmentation", None)
        if not given:
            masks.append(None)
        elif isinstance(given, list):
            rings: list[tuple[float, ...]] = []
            for ring in given:
                try:
                    # The Euclidean norm is at least the largest absolute component.
                    usual = len(ring) >= 6 and not len(ring) % 2 and hypot(*ring) <= REACH
                except (TypeError, OverflowError):
                    usual = False
                if usual or _is_kept(ring, given, where(index), odd):
                    rings.append(tuple(map(float, ring)))
            if not rings:
                odd.add(Oddity.NO_RING, f"{where(index)}: segmentation: {quote(given)}")
            masks.append(tuple(rings))
        else:
            height, width = columns.sizes[2 * index : 2 * index + 2]
            masks.append(_run_lengths(given, height, width, f"{where(index)}: segmentation: "))
    return masks


def _is_kept(ring: Any, given: list[Any], where: str, odd: Oddities) -> bool:
    """Whether to keep an unusual ring; short rings are dropped.

    Raises:
        UserError: the ring is not a list of numbers, or a number is not finite or beyond ``REACH``.
    """
    number = next(n for n, other in enumerate(given, 1) if other is ring)
    where = f"{where}: segmentation: polygon {number}"
    if not isinstance(ring, list):
        raise UserError(f"{where} is not a list of numbers x, y, x, y, ...")
    if len(ring) < 6 or len(ring) % 2:
        odd.add(Oddity.SHORT_RING, f"{where} of {len(ring)} numbers")
        return False
    try:
        values = array("d", ring)
    except (TypeError, OverflowError) as error:
        raise UserError(f"{where} is not a list of numbers x, y, x, y, ...") from error
    if not all(-REACH <= value <= REACH for value in values):  # NaN fails this test as well
        raise UserError(
            f"{where} has coordinates from {min(values):g} to {max(values):g}; expected pixels from "
            f"{-REACH} to {REACH}"
        )
    return True


def _run_lengths(given: Any, height: int, width: int, where: str) -> RunLengths:
    """Check run lengths ``{"size": [height, width], "counts": ...}``; counts are a string if compressed.

    Raises:
        UserError: the value has another form, the size differs from the image, or the counts do not add up
            to it.
    """
    if not isinstance(given, dict):
        raise UserError(
            f"{where}{quote(given)}; expected a list of polygons or an object of run lengths"
        )
    size, counts = given.get("size"), given.get("counts")
    if size != [height, width]:
        raise UserError(
            f"{where}run lengths have size {quote(size)}; expected the size of the image, "
            f"[{height}, {width}]"
        )
    mask = {"size": [height, width], "counts": counts}
    if isinstance(counts, str):
        try:
            check_runs([mask], height, width)
        except UserError as error:
            raise UserError(f"{where}{error}") from error
    elif not isinstance(counts, list) or any(type(run) is not int or run < 0 for run in counts):
        raise UserError(
            f"{where}run lengths have no valid counts; expected a list of integers or a string"
        )
    elif sum(counts) != height * width:
        raise UserError(
            f"{where}run lengths cover {quote(sum(counts))} pixels; "
            f"expected {height * width}, all pixels of an image of size [{height}, {width}]"
        )
    return mask
