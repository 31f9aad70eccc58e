"""Small data sets with depth: the brighter a pixel, the nearer it is."""

from pathlib import Path

import cv2
import numpy as np

SIZE = (24, 32)


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) of four gray areas, and the depth of each pixel: 1 to 5 meters."""
    depth = np.empty(SIZE, np.float32)
    for rows in (slice(0, 12), slice(12, 24)):
        for columns in (slice(0, 16), slice(16, 32)):
            depth[rows, columns] = random.uniform(1, 5)
    gray = np.rint(255 - 50 * depth).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2), depth


def depth_folder(root: Path, **splits: int) -> Path:
    """images/*.png and depths/*.png in millimeters; the depth of one pixel of each is unknown."""
    random = np.random.default_rng(0)
    for folder in ("images", "depths"):
        (root / folder).mkdir(parents=True)
    for split, count in (splits or {"train": 8, "test": 3}).items():
        for number in range(count):
            image, depth = scene(random)
            depth[0, 0] = 0
            cv2.imwrite(str(root / "images" / f"{split}{number}.png"), image)
            millimeters = np.rint(1000 * depth).astype(np.uint16)
            cv2.imwrite(str(root / "depths" / f"{split}{number}.png"), millimeters)
        names = [f"{split}{number}.png\n" for number in range(count)]
        (root / f"{split}.txt").write_text("".join(names))
    return root
