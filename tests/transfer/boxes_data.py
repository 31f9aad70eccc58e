"""A data set of colored rectangles in VOC layout, and a card that trains on it in a second."""

from pathlib import Path

import cv2
import numpy as np

CARDS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = ("blue", "red")


def make_voc(root: Path, **splits: int) -> Path:
    """ROOT/VOC2007 with images of 48 x 64 or 64 x 48 pixels; of one to three objects each."""
    voc = root / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    number = 0
    for split, count in (splits or {"trainval": 10, "test": 4}).items():
        ids = [f"{number + i:06d}" for i in range(count)]
        number += count
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            _write(voc, name, rng)
    return root


def _write(voc: Path, name: str, rng: np.random.Generator) -> None:
    height, width = (48, 64) if rng.random() < 0.5 else (64, 48)
    image = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
    objects = ""
    for _ in range(rng.integers(1, 4)):
        label = int(rng.integers(2))
        w, h = rng.integers(14, 26, 2)
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        image[y : y + h, x : x + w] = (220, 30, 30) if label == 0 else (30, 30, 220)  # BGR
        box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        objects += (
            f"<object><name>{CLASSES[label]}</name><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{box}</bndbox></object>"
        )
    cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), image)
    (voc / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def tiny_card(folder: Path, data: Path, **solver: object) -> Path:
    """The digits' C4 card, for eight iterations of two small images."""
    settings = {"IMS_PER_BATCH": 2, "MAX_ITER": 8, "STEPS": "(6,)", "WARMUP_ITERS": 2}
    lines = "".join(f"  {key}: {value}\n" for key, value in (settings | solver).items())
    card = folder / "tiny.yaml"
    card.write_text(
        f"_BASE_: {CARDS / 'digits_voc_c4.yaml'}\n"
        f"DATASETS:\n  TRAIN: ('voc:{data}:trainval',)\n  TEST: ('voc:{data}:test',)\n"
        "INPUT:\n  MIN_SIZE_TRAIN: (48, 64)\n  MIN_SIZE_TEST: 48\n"
        "MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 2\n    BATCH_SIZE_PER_IMAGE: 8\n"
        "  RPN:\n    POST_NMS_TOPK_TRAIN: 20\n    POST_NMS_TOPK_TEST: 10\n"
        "DATALOADER:\n  NUM_WORKERS: 0\n"
        "TEST:\n  EVAL_PERIOD: 4\n  PRECISE_BN:\n    NUM_ITER: 2\n"
        f"SOLVER:\n{lines}"
    )
    return card
