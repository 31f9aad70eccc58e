"""Small trees in the layouts of label maps: images of colored rectangles on gray."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from msbreg.data.digits.writers import voc_palette

COLORS = ((230, 30, 30), (30, 30, 230))


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) with one or two rectangles, and its labels: 0 background, 1 red, 2 blue."""
    height, width = (32, 40) if random.random() < 0.5 else (40, 32)
    image = random.integers(90, 140, (height, width, 3), dtype=np.uint8)
    labels = np.zeros((height, width), np.uint8)
    for k in (1, 2) if random.random() < 0.5 else (1 + int(random.integers(2)),):
        y, x = int(random.integers(0, height - 16)), int(random.integers(0, width - 16))
        image[y : y + 14, x : x + 14], labels[y : y + 14, x : x + 14] = COLORS[k - 1], k
    return image, labels


def save_map(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette(voc_palette())
    image.save(path)


def save_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def folders_tree(root: Path, **splits: int) -> Path:
    """images/SPLIT, labels/SPLIT and classes.txt; one pixel of each map is void."""
    random = np.random.default_rng(0)
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("background\nred\nblue\n")
    for split, count in (splits or {"train": 6, "val": 4}).items():
        for number in range(count):
            image, labels = scene(random)
            labels[0, 0] = 255
            save_image(root / "images" / split / f"{split}{number}.png", image)
            save_map(root / "labels" / split / f"{split}{number}.png", labels)
    return root


def voc_tree(root: Path) -> Path:
    """VOC2012 with train, val and, in SegmentationClassAug, one more image of trainaug."""
    random, voc = np.random.default_rng(0), root / "VOC2012"
    lists = {"train": ["a", "b"], "val": ["c"], "trainaug": ["a", "b", "d"]}
    for name in "abcd":
        image, labels = scene(random)
        save_image(voc / "JPEGImages" / f"{name}.jpg", image)
        folder = "SegmentationClassAug" if name == "d" else "SegmentationClass"
        save_map(voc / folder / f"{name}.png", labels)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(text)
    return root


def cityscapes_tree(root: Path) -> Path:
    """The published label ids: 7 is the road, 26 a car, 4 is void."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        image, labels = scene(random)
        ids = np.array([7, 26, 4], np.uint8)[labels]
        save_image(root / "leftImg8bit" / split / "ulm" / "ulm_0_leftImg8bit.png", image)
        folder = root / "gtFine" / split / "ulm"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "ulm_0_gtFine_labelIds.png"), ids)
    return root


def ade20k_tree(root: Path) -> Path:
    """The values 0 (void), 1 and 2 are other objects, the first and the second class."""
    random = np.random.default_rng(0)
    for split, short in (("training", "train"), ("validation", "val")):
        image, labels = scene(random)
        save_image(root / "images" / split / f"ADE_{short}_00000001.jpg", image)
        (root / "annotations" / split).mkdir(parents=True)
        cv2.imwrite(str(root / "annotations" / split / f"ADE_{short}_00000001.png"), labels)
    return root


def coco_tree(root: Path) -> Path:
    """Two overlapping boxes as polygons, and a crowd, in train2017 and val2017."""
    boxes = {3: (2, 2, 20, 20), 8: (10, 10, 6, 6)}
    annotations = [
        {
            "id": k,
            "image_id": 1,
            "category_id": k,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for k, (x, y, w, h) in reversed(boxes.items())
    ]
    runs = [32 * 30, 32 * 10]
    annotations.append(
        annotations[0]
        | {
            "id": 20,
            "iscrowd": 1,
            "bbox": [30, 0, 10, 32],
            "segmentation": {"size": [32, 40], "counts": runs},
        }
    )
    for split in ("train2017", "val2017"):
        save_image(root / split / "1.png", np.full((32, 40, 3), 128, np.uint8))
        content = {
            "images": [{"id": 1, "file_name": "1.png", "height": 32, "width": 40}],
            "annotations": annotations,
            "categories": [{"id": 3, "name": "large"}, {"id": 8, "name": "small"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
