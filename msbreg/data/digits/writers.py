"""Write scenes in the layouts of ImageFolder, PASCAL VOC and COCO.

Input boxes are 0-based with exclusive right and bottom edges; each writer converts them to the convention of
its layout.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msbreg.data.digits.compose import Instance, Mask, Scene, mask_box, to_uint8

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COCO_IDS = (1, 2, 3, 5, 7, 8, 11, 13, 17, 19)  # with gaps, as in COCO
VOID = 255
MIN_POLYGON_IOU = 0.85  # below this value (digits with a hole), the mask is written as RLE
JPEG: dict[str, Any] = {"quality": 92, "subsampling": 2}  # 4:2:0


@dataclass(frozen=True)
class Item:
    """One image of a single-label data set."""

    label: int
    name: str
    scan: int
    image: NDArray[np.uint8]


def write_folder(root: Path, items: Iterable[Item]) -> None:
    from PIL import Image

    for item in items:
        path = root / str(item.label) / f"{item.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.image).save(path)


# ---- PASCAL VOC


def write_voc(root: Path, splits: Mapping[str, Sequence[Scene]]) -> None:
    """Write boxes and label maps of `train`, `val` and `test`; `trainval` combines the first two."""
    from PIL import Image

    for folder in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    palette = voc_palette()
    members: dict[str, dict[str, Scene]] = {split: {} for split in splits}
    number = 0
    for split, scenes in splits.items():
        for scene in scenes:
            number += 1
            name = f"{number:06d}"
            members[split][name] = scene
            Image.fromarray(to_uint8(scene.image)).save(root / f"JPEGImages/{name}.jpg", **JPEG)
            (root / f"Annotations/{name}.xml").write_text(voc_xml(name, scene))
            labels = Image.fromarray(label_map(scene))
            labels.putpalette(palette)
            labels.save(root / f"SegmentationClass/{name}.png")
    members["trainval"] = members["train"] | members["val"]
    for split, named in members.items():
        write_image_sets(root / "ImageSets", split, named)


def voc_xml(name: str, scene: Scene) -> str:
    """The annotation of a scene. VOC counts pixels from 1, and xmax and ymax are inclusive."""
    height, width = scene.image.shape[:2]
    lines = [
        "<annotation>",
        f"\t<folder>VOC2007</folder>\n\t<filename>{name}.jpg</filename>",
        "\t<source><database>msbreg digits</database></source>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>1</segmented>",
    ]
    for instance in scene.instances:
        left, top, right, bottom = mask_box(instance.mask)
        lines += [
            "\t<object>",
            f"\t\t<name>{NAMES[instance.label]}</name>\n\t\t<pose>Unspecified</pose>",
            f"\t\t<truncated>{instance.truncated:d}</truncated>",
            f"\t\t<difficult>{instance.difficult:d}</difficult>",
            f"\t\t<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def presence(scene: Scene, label: int) -> int:
    """VOC's image label: 1 present, 0 present only as difficult objects, -1 absent."""
    difficult = [i.difficult for i in scene.instances if i.label == label]
    return -1 if not difficult else int(not all(difficult))


def write_image_sets(root: Path, split: str, named: Mapping[str, Scene]) -> None:
    listing = "".join(f"{name}\n" for name in named)
    for kind in ("Main", "Segmentation"):
        (root / kind).mkdir(parents=True, exist_ok=True)
        (root / kind / f"{split}.txt").write_text(listing)
    for label, class_name in enumerate(NAMES):
        rows = [f"{name} {presence(scene, label):2d}\n" for name, scene in named.items()]
        (root / "Main" / f"{class_name}_{split}.txt").write_text("".join(rows))


def label_map(scene: Scene) -> NDArray[np.uint8]:
    """0 background, 1..10 zero..nine, 255 on difficult digits and one pixel around every digit."""
    import cv2

    labels = np.zeros(scene.image.shape[:2], np.uint8)
    for instance in scene.instances:
        grown = cv2.dilate(instance.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        labels[grown] = VOID
        if not instance.difficult:
            labels[instance.mask] = instance.label + 1
    return labels


def voc_palette() -> list[int]:
    """The devkit's colors: bits 0, 3, 6 of an index are the highest bits of red, 1, 4, 7 of green, ..."""
    return [
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for index in range(256)
        for channel in range(3)
    ]


# ---- COCO


def write_coco(root: Path, splits: Mapping[str, Sequence[Scene]]) -> None:
    from PIL import Image

    (root / "annotations").mkdir(parents=True)
    for split, scenes in splits.items():
        folder = root / f"{split}2017"
        folder.mkdir()
        content = coco_header()
        first = {"train": 1009, "val": 500009}[split]
        for index, scene in enumerate(scenes):
            image_id = first + 13 * index  # with gaps, as in COCO
            name = f"{image_id:012d}.jpg"
            Image.fromarray(to_uint8(scene.image)).save(folder / name, **JPEG)
            height, width = scene.image.shape[:2]
            content["images"].append(
                {"id": image_id, "file_name": name, "height": height, "width": width, "license": 1}
            )
            for annotation in coco_annotations(scene):
                annotation |= {"id": 10 * image_id + annotation["id"], "image_id": image_id}
                content["annotations"].append(annotation)
        text = json.dumps(content, separators=(",", ":"))
        (root / "annotations" / f"instances_{split}2017.json").write_text(text)


def coco_header() -> dict[str, Any]:
    return {
        "info": {
            "description": "msbreg digits: scikit-learn's digit scans on its sample photographs",
            "url": "https://scikit-learn.org/stable/datasets.html",
            "version": "1.0",
            "year": 2026,
            "contributor": "msbreg",
            "date_created": "2026/01/01",
        },
        "licenses": [
            {
                "id": 1,
                "name": "Digit scans CC BY 4.0 (UCI), photographs CC BY (see scikit-learn)",
                "url": "https://creativecommons.org/licenses/by/4.0/",
            }
        ],
        "categories": [
            {"id": category, "name": name, "supercategory": "digit"}
            for category, name in zip(COCO_IDS, NAMES, strict=True)
        ],
        "images": [],
        "annotations": [],
    }


def coco_annotations(scene: Scene) -> Iterator[dict[str, Any]]:
    """The annotations of a scene. Area and box are computed from the decoded segmentation."""
    from pycocotools import mask as coco_mask

    for number, instance in enumerate(scene.instances):
        segmentation = coco_segmentation(instance)
        rle = to_rle(segmentation, instance.mask.shape)
        yield {
            "id": number,
            "category_id": COCO_IDS[instance.label],
            "iscrowd": int(instance.crowd),
            "segmentation": segmentation,
            "area": float(coco_mask.area(rle)),
            "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        }


def coco_segmentation(instance: Instance) -> Any:
    """Uncompressed RLE for a crowd, as in COCO; polygons if they are accurate; else compressed RLE."""
    from pycocotools import mask as coco_mask

    if instance.crowd:
        return {"size": list(instance.mask.shape), "counts": run_lengths(instance.mask)}
    polygons = mask_polygons(instance.mask)
    if polygons:
        decoded = decode_mask(polygons, instance.mask.shape)
        if (decoded & instance.mask).sum() >= MIN_POLYGON_IOU * (decoded | instance.mask).sum():
            return polygons
    rle = coco_mask.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def run_lengths(mask: Mask) -> list[int]:
    """Lengths of alternating runs of 0 and 1 in column-major order; the first may be 0."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def mask_polygons(mask: Mask, zoom: int = 4, tolerance: float = 0.3) -> list[list[float]]:
    """Outlines of the components of a mask, in pixel-edge coordinates, simplified by `tolerance` pixels.

    OpenCV's contours pass through pixel centers; on the enlarged mask, the error is only 1/8 pixel. Holes are
    not represented.
    """
    import cv2

    large = mask.repeat(zoom, 0).repeat(zoom, 1).astype(np.uint8)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, tolerance * zoom, True)[:, 0]
        if len(corners) >= 3:
            polygons.append(np.round((corners + 0.5) / zoom, 2).ravel().tolist())
    return polygons


def to_rle(segmentation: Any, size: tuple[int, ...]) -> Any:
    """Convert polygons or uncompressed RLE to compressed RLE."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def decode_mask(segmentation: Any, size: tuple[int, ...]) -> Mask:
    """Decode polygons, uncompressed or compressed RLE to pixels."""
    from pycocotools import mask as coco_mask

    with warnings.catch_warnings():  # pycocotools 2.0 does not support NumPy 2's __array__(copy=)
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return coco_mask.decode(to_rle(segmentation, size)) > 0
