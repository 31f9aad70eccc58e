"""The test images of a folder, corrupted as they are read: what ImageNet-C is for ImageNet, for any data set.

``corrupted:FOLDER`` has the splits CORRUPTION/SEVERITY of the images in FOLDER/val (or FOLDER/test). The
formulas and their five severities are those of Hendrycks and Dietterich (arXiv 1903.12261,
hendrycks/robustness) for the corruptions that do not depend on the size of the image. Scores on ImageNet are
not those of ImageNet-C, whose images were corrupted after a center crop and stored as JPEG.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from msbreg.data.classification.file_lists import NoSplit, WrongLayout
from msbreg.data.folder import ImageList, list_images

SEVERITIES = (1, 2, 3, 4, 5)
Pixels = np.ndarray  # (H, W, 3), floats in [0, 1]
_SPLITS = ("val", "test")


def _gaussian_noise(x: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    return x + random.normal(size=x.shape, scale=(0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1])


def _shot_noise(x: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return random.poisson(x * photons) / photons


def _impulse_noise(x: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Salt and pepper, in equal parts, on single channels."""
    flipped = random.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    return np.where(flipped, random.integers(0, 2, x.shape), x)


def _brightness(x: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    hsv = cv2.cvtColor(x.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(x: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    means = x.mean(axis=(0, 1), keepdims=True)
    return (x - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + means


def _pixelate(x: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    height, width = x.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    small = max(1, int(share * width)), max(1, int(share * height))
    x = cv2.resize(x, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(x, (width, height), interpolation=cv2.INTER_NEAREST)


CORRUPT: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
}


def corrupt(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    corruption: str,
    severity: int,
    random: np.random.Generator,
) -> np.ndarray:  # (H, W, 3) uint8 RGB
    """The image with one corruption of ``CORRUPT``.

    Args:
        severity: 1 (mild) to 5.
    """
    found = CORRUPT[corruption](image / 255, severity, random)
    return np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)


@dataclass(frozen=True)
class CorruptedImages(ImageList):
    """Images of a folder; each is corrupted in the same way whenever it is read."""

    corruption: str
    severity: int

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        name = f"{self.corruption} {self.severity} {self.entry(i)}"
        seed = hashlib.sha256(name.encode()).digest()[:8]
        random = np.random.default_rng(int.from_bytes(seed, "little"))
        return corrupt(super().image(i), self.corruption, self.severity, random)

    def cache_key(self) -> str:
        text = f"{self.corruption} {self.severity} {super().cache_key()}"
        return hashlib.sha256(text.encode()).hexdigest()


def open_corrupted(root: Path, split: str) -> CorruptedImages:
    """The images of ROOT/val, or of ROOT/test, with the corruption that ``split`` names: ``contrast/3``.

    Raises:
        NoSplit: there is no such corruption or severity.
        WrongLayout: there are no such images in class folders.
    """
    corruption, _, severity = split.partition("/")
    if corruption not in CORRUPT or severity not in map(str, SEVERITIES):
        raise NoSplit(
            f"corrupted images have no split {split!r}; expected CORRUPTION/SEVERITY with one of "
            f"{', '.join(CORRUPT)} and 1 to 5"
        )
    folder = next((root / name for name in _SPLITS if (root / name).is_dir()), None)
    if folder is None:
        raise WrongLayout(f"{root} has no val or test; expected the test images in class folders")
    images = list_images(folder)
    if images.labels is None:
        raise WrongLayout(f"{folder} contains images but no class folders")
    values: dict[str, Any] = {field.name: getattr(images, field.name) for field in fields(images)}
    digest = hashlib.sha256(f"{split} {images.fingerprint}".encode()).hexdigest()
    return CorruptedImages(
        **values | {"fingerprint": digest}, corruption=corruption, severity=int(severity)
    )


def corrupted_splits() -> tuple[str, ...]:
    """CORRUPTION/SEVERITY of every corruption and severity."""
    return tuple(f"{corruption}/{severity}" for corruption in CORRUPT for severity in SEVERITIES)
