"""Write small trees in the layouts of the test sets for ImageNet classifiers."""

import json
from pathlib import Path

import cv2
import numpy as np

from msbreg.data.classification.imagenet_variants import CORRUPTIONS
from tests.msbreg.data.classification.published_trees import WNIDS, digit_images, write_image


def wnid_tree(root: Path, folder: str, *, wnids: tuple[str, ...] = WNIDS, count: int = 2) -> None:
    """``FOLDER/WNID/*.JPEG``; the images are not among the first 60 digits, those of ``imagenet_tree``."""
    images = list(digit_images())[100:]
    for number in range(count * len(wnids)):
        wnid = wnids[number % len(wnids)]
        write_image(root / folder / wnid / f"{number}.JPEG", images[number])


def imagenet_a_tree(root: Path) -> None:
    wnid_tree(root, "imagenet-a")


def imagenet_r_tree(root: Path) -> None:
    wnid_tree(root, "imagenet-r")


def imagenet_sketch_tree(root: Path) -> None:
    wnid_tree(root, "sketch")


def imagenet_v2_tree(root: Path) -> None:
    wnid_tree(root, "imagenetv2-matched-frequency-format-val", wnids=("0", "2", "10"))


def imagenet_c_tree(root: Path, *, severities: tuple[int, ...] = (1,)) -> None:
    """All corruptions; each image is another digit."""
    images = iter(list(digit_images())[100:])
    for corruption in (name for group in CORRUPTIONS.values() for name in group):
        for severity in severities:
            for wnid in WNIDS:
                write_image(root / corruption / str(severity) / wnid / "val_1.JPEG", next(images))


def objectnet_tree(root: Path) -> None:
    """Three classes, of which ImageNet has two: one of them as its classes 1 and 3, the other as 0."""
    base = root / "objectnet-1.0"
    images = iter(list(digit_images())[100:])
    for folder in ("air_freshener", "alarm_clock", "chair"):
        for number in range(2):
            framed = np.full((28, 28, 3), (255, 0, 0), np.uint8)  # a red border
            framed[2:-2, 2:-2] = next(images)
            path = base / "images" / folder / f"{number}.png"
            write_image(path, framed)
            assert cv2.imread(str(path)).shape == (28, 28, 3)
    files = {
        "folder_to_objectnet_label.json": {
            "air_freshener": "Air freshener",
            "alarm_clock": "Alarm clock",
            "chair": "Chair",
        },
        "objectnet_to_imagenet_1k.json": {
            "Alarm clock": "analog clock; digital clock",
            "Chair": "folding chair",
        },
        "pytorch_to_imagenet_2012_id.json": {"0": 2, "1": 0, "2": 3, "3": 1},
    }
    (base / "mappings").mkdir()
    for name, content in files.items():
        (base / "mappings" / name).write_text(json.dumps(content))
    lines = ["analog clock", "digital clock", "folding chair", "tench, Tinca tinca"]
    (base / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")


# Layout -> the function, its first split, the number of images and of classes there.
VARIANT_TREES = {
    "imagenet-a": (imagenet_a_tree, "test", 6, 3),
    "imagenet-c": (imagenet_c_tree, "gaussian_noise/1", 3, 3),
    "imagenet-r": (imagenet_r_tree, "test", 6, 3),
    "imagenet-sketch": (imagenet_sketch_tree, "test", 6, 3),
    "imagenet-v2": (imagenet_v2_tree, "matched-frequency", 6, 3),
    "objectnet": (objectnet_tree, "test", 4, 2),
}
