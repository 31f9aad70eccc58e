"""Colored rectangles with keypoints in COCO's and in LVIS's layout, and cards that train on them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CARDS = Path(__file__).resolve().parents[2] / "configs"
NAMES = ("center", "left_top", "right_top", "left_bottom", "right_bottom")
SKELETON = [[1, 2], [1, 3], [2, 4], [3, 5]]
CLASSES = ("red", "blue", "never")
FREQUENCIES = ("f", "r", "c")
SPLITS = {"train": 8, "val": 3}


def make_keypoints(root: Path) -> Path:
    """ROOT/coco and ROOT/lvis: images of 48 x 64 or 64 x 48 pixels with one or two rectangles each.

    The keypoints of a rectangle are its center and its corners; one corner is not labeled. Every fourth
    rectangle is of the second class, for LVIS.
    """
    rng = np.random.default_rng(0)
    for folder in ("coco/annotations", "lvis"):
        (root / folder).mkdir(parents=True)
    for split, count in SPLITS.items():
        images, annotations = [], []
        (root / "coco" / f"{split}2017").mkdir()
        for number in range(1, count + 1):
            size = (48, 64) if rng.random() < 0.5 else (64, 48)
            pixels = rng.integers(90, 140, (*size, 3), dtype=np.uint8)
            for _ in range(rng.integers(1, 3)):
                annotations.append(_rectangle(pixels, rng, number, len(annotations) + 1))
            name = f"{number:012d}.png"
            Image.fromarray(pixels).save(root / "coco" / f"{split}2017" / name)
            url = f"http://images.cocodataset.org/{split}2017/{name}"
            images.append(
                {"id": number, "height": size[0], "width": size[1], "file_name": name}
                | {"coco_url": url}
            )
        _write(root, split, images, annotations)
    return root


def _rectangle(pixels, rng, image, number):
    """Draw a rectangle with a green left half; return its annotation."""
    height, width = pixels.shape[:2]
    w, h = rng.integers(16, 28, 2).tolist()
    x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
    label = int(number % 4 == 0)
    pixels[y : y + h, x : x + w] = (30, 30, 220) if label else (220, 30, 30)
    pixels[y : y + h, x : x + w // 2, 1] = 160
    right, bottom = x + w - 1, y + h - 1
    places = [(x + w // 2, y + h // 2), (x, y), (right, y), (x, bottom), (right, bottom)]
    points = [value for i, (px, py) in enumerate(places) for value in (px, py, 1 + i % 2)]
    hidden = 1 + number % 4
    points[3 * hidden : 3 * hidden + 3] = [0, 0, 0]
    ring = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [x, y, w, h],
        "area": float(w * h),
        "iscrowd": 0,
        "segmentation": [ring],
        "keypoints": points,
        "num_keypoints": 4,
    }


def _write(root, split, images, annotations):
    person = {"id": 1, "name": "person", "keypoints": list(NAMES), "skeleton": SKELETON}
    content = {
        "images": images,
        "annotations": [a | {"category_id": 1} for a in annotations],
        "categories": [person],
    }
    path = root / "coco" / "annotations" / f"person_keypoints_{split}2017.json"
    path.write_text(json.dumps(content))
    federated = [
        {key: value for key, value in image.items() if key != "file_name"}
        | {"neg_category_ids": [3], "not_exhaustive_category_ids": [1] if image["id"] == 1 else []}
        for image in images
    ]
    content = {
        "images": federated,
        "annotations": [
            {k: v for k, v in a.items() if k not in ("iscrowd", "keypoints", "num_keypoints")}
            for a in annotations
        ],
        "categories": [
            {"id": k + 1, "name": name, "frequency": frequency}
            for k, (name, frequency) in enumerate(zip(CLASSES, FREQUENCIES, strict=True))
        ],
    }
    (root / "lvis" / f"lvis_v1_{split}.json").write_text(json.dumps(content))


TINY = (
    "INPUT:\n  MIN_SIZE_TRAIN: (48, 64)\n  MIN_SIZE_TEST: 48\n  RANDOM_FLIP: horizontal\n"
    "  MASK_FORMAT: polygon\n"
    "SOLVER:\n  IMS_PER_BATCH: 2\n  MAX_ITER: 4\n  STEPS: (3,)\n  WARMUP_ITERS: 1\n"
)


def keypoint_card(folder: Path) -> Path:
    """The digits' FPN card with a small keypoint head, for four iterations of two images."""
    card = folder / "tiny-keypoints.yaml"
    card.write_text(
        f"_BASE_: {CARDS / 'digits_coco_fpn.yaml'}\n{TINY}"
        "DATASETS:\n  TRAIN: ('keypoints_coco_2017_train',)\n  TEST: ('keypoints_coco_2017_val',)\n"
        "MODEL:\n  MASK_ON: False\n  KEYPOINT_ON: True\n"
        "  ROI_HEADS:\n    NUM_CLASSES: 1\n    SCORE_THRESH_TEST: 0.0\n"
        "  ROI_KEYPOINT_HEAD:\n    NUM_KEYPOINTS: 5\n    CONV_DIMS: [16, 16]\n"
        "TEST:\n  KEYPOINT_OKS_SIGMAS: [0.1, 0.1, 0.1, 0.1, 0.1]\n  PRECISE_BN:\n    NUM_ITER: 2\n"
    )
    return card


def lvis_card(folder: Path) -> Path:
    """The digits' FPN card with LVIS's sampling and thresholds, for four iterations of two images."""
    card = folder / "tiny-lvis.yaml"
    card.write_text(
        f"_BASE_: {CARDS / 'digits_coco_fpn.yaml'}\n{TINY}"
        "DATASETS:\n  TRAIN: ('lvis_v1_train',)\n  TEST: ('lvis_v1_val',)\n"
        "DATALOADER:\n  SAMPLER_TRAIN: RepeatFactorTrainingSampler\n  REPEAT_THRESHOLD: 0.9\n"
        "MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 3\n    SCORE_THRESH_TEST: 0.0001\n"
        "TEST:\n  DETECTIONS_PER_IMAGE: 300\n  PRECISE_BN:\n    NUM_ITER: 2\n"
    )
    return card
