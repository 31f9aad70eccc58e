"""Reference for pretrain/views.py: Pillow's resize, then torchvision's functions in floating point.

Nothing is rounded between two operations; levels are 0 to 255, arrays (H, W, 3).
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from pretrain.views import Augmentation, ViewParameters


def _tensor(levels: np.ndarray) -> Tensor:
    return torch.tensor(levels, dtype=torch.float64).permute(2, 0, 1) / 255


def _levels(tensor: Tensor) -> np.ndarray:
    return (tensor * 255).permute(1, 2, 0).numpy()


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    kind = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    resized = Image.fromarray(image).resize((size, size), kind[interpolation])
    return np.asarray(resized, np.float64)


def jitter(levels: np.ndarray, part: str, amount: float) -> np.ndarray:
    adjust = getattr(functional, f"adjust_{part}")
    return _levels(adjust(_tensor(levels), amount))


def gray(levels: np.ndarray) -> np.ndarray:
    return _levels(functional.rgb_to_grayscale(_tensor(levels), num_output_channels=3))


def blur(levels: np.ndarray, sigma: float, kernel: float) -> np.ndarray:
    side = 2 * int(kernel * len(levels) / 2) + 1
    pixels = _tensor(levels).float()  # torch's convolution crawls in float64
    return _levels(functional.gaussian_blur(pixels, [side, side], [sigma, sigma]))


def solarize(levels: np.ndarray, threshold: int) -> np.ndarray:
    return np.where(levels >= threshold, 255 - levels, levels)


def apply(
    image: np.ndarray, parameters: ViewParameters, augmentation: Augmentation
) -> np.ndarray:  # (size, size, 3) float64
    top, left = parameters.top, parameters.left
    crop = image[top : top + parameters.height, left : left + parameters.width]
    levels = resize(crop, augmentation.size, augmentation.interpolation)
    if parameters.flip:
        levels = levels[:, ::-1].copy()
    for part, amount in parameters.jitter:
        levels = jitter(levels, part, amount)
    if parameters.gray:
        levels = gray(levels)
    if parameters.blur_sigma > 0:
        levels = blur(levels, parameters.blur_sigma, augmentation.blur_kernel)
    if parameters.solarize:
        levels = solarize(levels, augmentation.solarize_threshold)
    return levels
