"""Evaluation transforms: from a decoded image to the input pixels of a frozen backbone."""

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
    """Antialiased ``bilinear`` or ``bicubic`` resize, equivalent to Pillow's, which the protocols assume.

    PyTorch's uint8 kernel does the same arithmetic as Pillow in a sixth of the time. OpenCV's filters do not
    antialias: when a photograph shrinks by 2, its bicubic differs by up to 7 of 255 levels on average.
    """
    if image.shape[:2] == (height, width):
        return image
    import torch  # here, because settings such as EvaluationTransform are checked without PyTorch
    from torch.nn import functional

    # The kernel is only fast for channels_last, which PyTorch infers from the strides of the batch.
    batch = torch.from_numpy(image.copy()).unsqueeze(0).permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, (height, width), mode=interpolation, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class EvaluationTransform:
    """Resize the short side to ``resize`` pixels, then crop the center to ``crop`` x ``crop`` pixels."""

    resize: int = 256
    """Short side after resizing, in pixels; 0 keeps the original size."""
    crop: int = 224
    """Side of the center crop, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation, antialiased like Pillow's."""
    squash: bool = False
    """Resize to crop x crop without preserving the aspect ratio, instead of cropping (VISSL's VOC07)."""

    def __post_init__(self) -> None:
        if self.crop < 1 or self.resize < 0 or 0 < self.resize < self.crop:
            raise UserError(
                f"resize is {self.resize} and crop is {self.crop}; "
                "expected 0 < crop <= resize, or resize 0 to keep the original size"
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
    """Scaled (height, width); the long side is rounded down, as in torchvision's Resize."""
    return max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6))


def default_transform(
    image_size: int,  # side of the views in pre-training; 0 if unknown
) -> EvaluationTransform:
    """The default transform of a network: resize to 256 and crop to 224 pixels.

    Networks trained on at most 64 pixels see the whole center square at their training size. Published models
    are trained on 224 pixels, so an unknown size counts as large.

    >>> default_transform(224).crop, default_transform(0).crop, default_transform(48).crop
    (224, 224, 48)
    """
    if image_size == 0 or image_size > 64:
        return EvaluationTransform()
    return EvaluationTransform(resize=image_size, crop=image_size)
