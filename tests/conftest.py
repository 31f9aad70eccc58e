"""Small data sets for all tests, generated from fixed seeds."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

# Small tensors do not benefit from several threads, which slow down parallel test runs.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def write_folder(root: Path, *, classes: int = 2, side: int = 20, **splits: int) -> Path:
    """Write an ImageFolder tree of small random PNGs; ``train=6, val=3`` sets images per class."""
    rng = np.random.default_rng(0)
    for split, count in (splits or {"train": 8, "val": 4}).items():
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                image[..., label % 3] //= 4  # classes differ by a color cast
                cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return root


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """``write_folder`` into a temporary folder: ``make_folder("name", train=6, val=3)``."""

    def make(name: str = "data", **options: int) -> Path:
        return write_folder(tmp_path / name, **options)

    return make
