"""Transforms from a decoded image to the input pixels of a frozen backbone, in evaluation and in training."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

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


def image_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator for one image in one epoch; independent of the worker that uses it."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch, index))
    return np.random.Generator(np.random.Philox(sequence))


def sample_crop(
    height: int,
    width: int,
    generator: np.random.Generator,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop, sampled like torchvision's RandomResizedCrop.

    Tries ten random areas and ratios, then falls back to the largest center crop with an allowed ratio.

    Args:
        area: range of the crop's share of the image area; sampled uniformly.
        ratio: range of width / height; sampled log-uniformly.
    """
    (smallest, largest), (narrowest, widest) = area, ratio
    # Draw all tries at once: a call of the generator costs more than the numbers.
    for area_share, ratio_share, row_share, column_share in generator.random((10, 4)).tolist():
        pixels = height * width * (smallest + area_share * (largest - smallest))
        low, high = math.log(narrowest), math.log(widest)
        aspect = math.exp(low + ratio_share * (high - low))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(row_share * (height - h + 1)), int(column_share * (width - w + 1)), h, w
    h = height if width >= narrowest * height else max(1, round(width / narrowest))
    w = width if width <= widest * height else max(1, round(height * widest))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class TrainingTransform:
    """A random resized crop and a horizontal flip: the augmentation of the published linear protocols."""

    crop: int = 224
    """Side of the crop after resizing, in pixels."""
    area: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the aspect ratio of the crop, width / height."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation, antialiased like Pillow's."""

    def __post_init__(self) -> None:
        (smallest, largest), (narrowest, widest) = self.area, self.ratio
        expect = {
            "crop": (self.crop >= 1, "at least 1 pixel"),
            "area": (
                0 < smallest <= largest <= 1,
                "two numbers, 0 < smallest <= largest <= 1, such as 0.08 1",
            ),
            "ratio": (
                0 < narrowest <= widest < math.inf,
                "two numbers, 0 < narrowest <= widest, such as 0.75 1.33",
            ),
            "flip": (0 <= self.flip <= 1, "a probability from 0 to 1"),
        }
        for name, (right, words) in expect.items():
            if not right:
                given = getattr(self, name)
                shown = " ".join(map(str, given)) if isinstance(given, tuple) else given
                raise UserError(f"{name} of the augmentation is {shown}; expected {words}")

    def __call__(
        self,
        image: np.ndarray,  # (H, W, 3) uint8 RGB
        generator: np.random.Generator,
    ) -> np.ndarray:  # (3, crop, crop) uint8 RGB
        height, width = image.shape[:2]
        top, left, h, w = sample_crop(height, width, generator, area=self.area, ratio=self.ratio)
        part = resize(
            image[top : top + h, left : left + w], self.crop, self.crop, self.interpolation
        )
        if generator.random() < self.flip:
            part = part[:, ::-1]
        return np.ascontiguousarray(part.transpose(2, 0, 1))


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


@dataclass(frozen=True)
class TransformOptions:
    """Settings of an evaluation transform; those that are null keep the default of the network."""

    resize: int | None = None
    """Short side after resizing, in pixels; 0 keeps the original size."""
    crop: int | None = None
    """Side of the center crop, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Interpolation, antialiased like Pillow's."""
    squash: bool | None = None
    """Resize to crop x crop without preserving the aspect ratio, instead of cropping (VISSL's VOC07)."""

    def over(self, default: EvaluationTransform) -> EvaluationTransform:
        """The default with the settings that are not null.

        Raises:
            UserError: they do not fit together.

        >>> TransformOptions(resize=232).over(EvaluationTransform(interpolation="bicubic"))
        EvaluationTransform(resize=232, crop=224, interpolation='bicubic', squash=False)
        """
        return replace(default, **_given(self))


@dataclass(frozen=True)
class AugmentationOptions:
    """Settings of the augmentation; those that are null keep the default."""

    crop: int | None = None
    """Side of the crop after resizing, in pixels (null: that of the evaluation)."""
    area: tuple[float, float] | None = None
    """Range of the crop's share of the image area (null: 0.08 to 1)."""
    ratio: tuple[float, float] | None = None
    """Range of the aspect ratio of the crop, width / height (null: 3/4 to 4/3)."""
    flip: float | None = None
    """Probability of a horizontal flip (null: 0.5)."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Interpolation (null: that of the evaluation)."""

    def __post_init__(self) -> None:
        self.over(TrainingTransform())  # refuses invalid values with the options, before any work

    def over(self, default: TrainingTransform) -> TrainingTransform:
        """The default with the settings that are not null."""
        return replace(default, **_given(self))


def _given(options: "TransformOptions | AugmentationOptions") -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value is not None}


def default_transform(
    image_size: int,  # side of the views in pre-training; 0 if unknown
    interpolation: Literal["bilinear", "bicubic"] | None = None,
) -> EvaluationTransform:
    """The default transform of a network: resize to 256 and crop to 224 pixels, bilinear unless stated.

    Networks trained on at most 64 pixels see the whole center square at their training size. Published models
    are trained on 224 pixels, so an unknown size counts as large.

    >>> default_transform(224).crop, default_transform(0).crop, default_transform(48).crop
    (224, 224, 48)
    """
    how = interpolation or "bilinear"
    if image_size == 0 or image_size > 64:
        return EvaluationTransform(interpolation=how)
    return EvaluationTransform(resize=image_size, crop=image_size, interpolation=how)
