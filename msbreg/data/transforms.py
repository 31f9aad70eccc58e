"""Evaluation transforms: a decoded image to the pixels that a frozen backbone sees."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from msbreg.run.errors import UserError


def resize(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    height: int,
    width: int,
    interpolation: str,
) -> np.ndarray:  # (height, width, 3) uint8 RGB
    """Pillow's antialiased ``bilinear`` or ``bicubic`` resize, which the field's protocols mean.

    torch's uint8 kernel does Pillow's arithmetic in a sixth of its time. OpenCV's filters do not
    antialias: its bicubic is up to 7 of 255 levels off on average when a photograph shrinks by 2.
    """
    if image.shape[:2] == (height, width):
        return image
    import torch  # here: EvaluationTransform is a setting, and settings are checked before PyTorch loads
    from torch.nn import functional

    # The kernel is fast on channels_last only, which torch tells from the stride of the batch.
    batch = torch.from_numpy(image.copy()).unsqueeze(0).permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, (height, width), mode=interpolation, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class EvaluationTransform:
    """Short side to ``resize`` pixels, then the center ``crop`` x ``crop``; no augmentation."""

    resize: int = 256
    """Short side after resizing, in pixels; 0 keeps the image's own size."""
    crop: int = 224
    """Side of the center crop, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Antialiased, as Pillow's."""
    squash: bool = False
    """Resize to crop x crop without keeping the aspect ratio, instead of cropping (VISSL's VOC07)."""

    def __post_init__(self) -> None:
        if self.crop < 1 or self.resize < 0 or 0 < self.resize < self.crop:
            raise UserError(
                f"resize {self.resize} and crop {self.crop} do not fit; "
                "expected 0 < crop <= resize, or resize 0 for the image's own size"
            )

    def __call__(
        self,
        image: np.ndarray,  # (H, W, 3) uint8 RGB
    ) -> np.ndarray:  # (3, crop, crop) uint8 RGB
        height, width = image.shape[:2]
        if self.resize:
            scale = self.resize / min(height, width)
            image = resize(image, *_scaled(height, width, scale), self.interpolation)
        if self.squash:
            image = resize(image, self.crop, self.crop, self.interpolation)
        height, width = image.shape[:2]
        if min(height, width) < self.crop:  # only with resize 0
            scale = self.crop / min(height, width)
            image = resize(image, *_scaled(height, width, scale), self.interpolation)
            height, width = image.shape[:2]
        top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
        cropped = image[top : top + self.crop, left : left + self.crop]
        return np.ascontiguousarray(cropped.transpose(2, 0, 1))


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """The long side is cut to whole pixels, the short side exact (torchvision's Resize)."""
    return max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6))


def default_transform(
    image_size: int,  # side of the views in pre-training; 0 if unknown
) -> EvaluationTransform:
    """The usual evaluation of a network: 256 / 224, or all of a small image at its training size.

    Published families train on 224 pixels, so an unknown size counts as large.

    >>> default_transform(224).crop, default_transform(0).crop, default_transform(48).crop
    (224, 224, 48)
    """
    if image_size == 0 or image_size > 64:
        return EvaluationTransform()
    return EvaluationTransform(resize=image_size, crop=image_size)
