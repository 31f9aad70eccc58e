"""A small VOC2007 folder with class files, for SVMs."""

from pathlib import Path

import cv2
import numpy as np


def write_labeled_voc(devkit: Path) -> Path:
    """Images with a red half, a green half or both; in the last, all objects are difficult."""
    root = devkit / "VOC2007"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("trainval", 24), ("test", 16)):
        lines: dict[str, list[str]] = {"green": [], "red": []}
        for index in range(count):
            shown = [("red",), ("green",), ("red", "green"), ()][index % 4]
            image = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
            image[:, :12, 2] += np.uint8(150 * ("red" in shown))
            image[:, 12:, 1] += np.uint8(150 * ("green" in shown))
            name = f"{split}{index:03d}"
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
            for label in lines:
                value = 1 if label in shown else -1
                lines[label].append(f"{name} {0 if index == count - 1 else value:2d}")
        for label, rows in lines.items():
            file = root / "ImageSets" / "Main" / f"{label}_{split}.txt"
            file.write_text("\n".join(rows) + "\n")
    return devkit
