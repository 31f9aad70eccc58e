"""Write small data sets in the layouts of VOC and COCO."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(
    os.environ.get("MSBREG_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")
)


def shared(name):
    """A folder of data that is not part of the repository; skips the test if it is missing."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} not found; set MSBREG_SHARED_DATA to the folder of {name}")
    return SHARED / name


def noise(height, width, seed=0):
    pixels = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def xml(objects, width=40, height=30):
    """``objects`` are (name, xmin, ymin, xmax, ymax, further tags as text)."""
    lines = [f"<annotation><size><width>{width}</width><height>{height}</height></size>"]
    for name, *box, extra in objects:
        sides = "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        lines.append(f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"])


def write_voc(root, annotations, *, split="trainval", ids=None, size=(30, 40), suffix=".jpg"):
    """``annotations`` maps ids to XML; every image has ``size`` (height, width)."""
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        noise(*size).save(root / "JPEGImages" / f"{name}{suffix}")
    listing = "".join(f"{name}\n" for name in (annotations if ids is None else ids))
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listing)
    return root


def coco_content(annotations=(), images=((7, 30, 40),), categories=((2, "cat"), (5, "dog"))):
    """``annotations`` are changes to a valid annotation; ids count from 1."""
    valid = {"image_id": 7, "category_id": 5, "iscrowd": 0, "bbox": [4.5, 3, 10, 8]}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
            for i, height, width in images
        ],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [valid | {"id": n} | change for n, change in enumerate(annotations, 1)],
    }


def write_coco(root, content):
    """``content`` is an object, or the text of a malformed file."""
    images = root / "images"
    images.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        for entry in content.get("images", ()):
            sides = (entry.get("height"), entry.get("width"))
            if all(isinstance(side, int) and 0 < side < 1000 for side in sides):
                noise(*sides).save(images / f"{entry['id']}.png")
        content = json.dumps(content)
    (root / "instances.json").write_text(content)
    return root / "instances.json", images
