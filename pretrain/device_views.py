"""Views finished on the device: a worker crops, the GPU does flip, color jitter, gray, blur and solarize.

``crop_views`` runs in a worker. It draws the same random choices as ``views.make_views``, but only crops and
resizes; the other choices travel as one row of numbers per view. ``augment`` computes the rest for a whole
batch, with the choices of each view, without a loop over views and without synchronizing host and device.

Values are rounded to whole levels after each operation, as on the CPU. Flip, brightness, contrast and
solarization equal those of ``views.apply``; saturation, hue, gray and blur differ by at most one level.
Complete views of photographs differ by 0.05 of 255 levels on average and by at most 8; at most 1 in 2,000
values differs by more than 2. tests/pretrain/test_device_views.py checks these bounds.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from pretrain.views import LUMA, Augmentation, ViewParameters, blur_radius, crop, sample

COLUMNS = 24
"""Numbers per view: see ``pack``."""
_RED, _GREEN, _BLUE = LUMA.tolist()
_NEVER = 256  # threshold of solarization above all levels


# ---- In a worker


def pack(
    parameters: ViewParameters, augmentation: Augmentation
) -> np.ndarray:  # (COLUMNS,) float32
    """The choices of one view that remain after its crop.

    Brightness, contrast and saturation all blend the view with a base: x -> a x + b mean gray + c gray. The
    order of the jitter is kept by six such blends, three before the hue and three after it; those that are
    not needed are (1, 0, 0).

    ======= ===============================================================
    0       1 to flip, else 0
    1-9     (a, b, c) of the three blends before the hue
    10      shift of the hue, in turns
    11-19   (a, b, c) of the three blends after the hue
    20      1 for gray, else 0
    21, 22  standard deviation and radius of the blur, in pixels; (1, 0) for none
    23      threshold of solarization; 256 for none
    ======= ===============================================================

    >>> from pretrain.views import ViewParameters
    >>> jitter = (("contrast", 0.75), ("hue", 0.125), ("brightness", 1.5))
    >>> row = pack(ViewParameters(0, 0, 9, 9, True, jitter, False, 0.0, False), Augmentation())
    >>> row[0], row[10]
    (np.float32(1.0), np.float32(0.125))
    >>> row[1:4], row[11:14]  # contrast, then brightness
    (array([0.75, 0.25, 0.  ], dtype=float32), array([1.5, 0. , 0. ], dtype=float32))
    """
    shift = 0.0
    before: list[float] = []
    after: list[float] = []
    blends = before
    for name, amount in parameters.jitter:
        if name == "hue":
            shift, blends = amount, after
        else:
            base = 1 - amount
            mean, gray = (base if name == other else 0.0 for other in ("contrast", "saturation"))
            blends += amount, mean, gray
    for blends in (before, after):
        blends += (1.0, 0.0, 0.0) * (3 - len(blends) // 3)
    sigma, radius = 1.0, 0
    if parameters.blur_sigma > 0:
        sigma = parameters.blur_sigma
        radius = blur_radius(augmentation.size, sigma, augmentation.blur_kernel)
    return np.array(
        [
            parameters.flip,
            *before,
            shift,
            *after,
            parameters.gray,
            sigma,
            radius,
            augmentation.solarize_threshold if parameters.solarize else _NEVER,
        ],
        np.float32,
    )


def crop_views(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    policy: tuple[Augmentation, ...],
    views: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # (views, 3, size, size) uint8 RGB, (views, COLUMNS) float32
    """The crops of ``make_views`` with the same generator, and the choices for ``augment``."""
    assert (image.dtype, image.ndim) == (np.uint8, 3), (image.dtype, image.shape)
    assert len({augmentation.size for augmentation in policy}) == 1, "views of one size"
    size = policy[0].size
    crops = np.empty((views, 3, size, size), np.uint8)
    rows = np.empty((views, COLUMNS), np.float32)
    for j in range(views):
        augmentation = policy[j % len(policy)]
        parameters = sample(augmentation, image.shape[0], image.shape[1], generator)
        cv2.split(crop(image, parameters, augmentation), list(crops[j]))
        rows[j] = pack(parameters, augmentation)
    return crops, rows


# ---- On the device. Levels are float32 in [0, 255]; a parameter has one value per view, (B, 1, 1, 1).


class Choices(NamedTuple):
    """The columns of ``pack``, for a batch."""

    flip: Tensor  # (B, 1, 1, 1), like all single columns
    before: Tensor  # (3, 3, B, 1, 1, 1): blend, coefficient
    hue: Tensor
    after: Tensor  # (3, 3, B, 1, 1, 1)
    gray: Tensor
    sigma: Tensor
    radius: Tensor
    threshold: Tensor


def unpack(
    parameters: Tensor,  # (B, COLUMNS)
) -> Choices:
    """Name the columns of ``pack``, each in a shape that broadcasts with a batch of views."""
    columns = parameters.t()[..., None, None, None]  # (COLUMNS, B, 1, 1, 1)
    blends = [columns[first : first + 9].unflatten(0, (3, 3)) for first in (1, 11)]
    return Choices(
        columns[0],
        blends[0],
        columns[10],
        blends[1],
        columns[20],
        columns[21],
        columns[22],
        columns[23],
    )


def finish_views(
    crops: Iterable[Tensor],  # K of (B, 3, S, S) uint8 RGB; S may differ between views
    parameters: Iterable[Tensor],  # K of (B, COLUMNS) float32
    device: torch.device,
) -> list[Tensor]:  # K of (B, 3, S, S) uint8 RGB, on the device
    """Move the batches of all views to the device and finish them there with ``augment``.

    Only pinned memory is copied without waiting for the copy.
    """
    return [
        augment(view.to(device, non_blocking=True), rows.to(device, non_blocking=True))
        for view, rows in zip(crops, parameters, strict=True)
    ]


def augment(
    views: Tensor,  # (B, 3, S, S) uint8 RGB
    parameters: Tensor,  # (B, COLUMNS) float32
) -> Tensor:  # (B, 3, S, S) uint8 RGB
    """Finish a batch of crops, in the order of ``views.apply``; view b with the choices of row b.

    Both tensors are on the device that computes. The result has the type and range of the views that
    ``make_views`` returns, so it is normalized in the same way. Memory for about six batches in float32 is
    needed during the computation.
    """
    assert views.dtype == torch.uint8, views.dtype
    assert parameters.shape == (len(views), COLUMNS), parameters.shape
    choices = unpack(parameters.float())
    with torch.autocast(views.device.type, enabled=False):
        levels = torch.where(choices.flip > 0, views.flip(-1), views).float()
        for coefficients in choices.before:
            levels = blend(levels, coefficients)
        levels = rotate_hue(levels, choices.hue)
        for coefficients in choices.after:
            levels = blend(levels, coefficients)
        levels = torch.where(choices.gray > 0, _rounded(luma(levels)), levels)
        levels = blur(levels, choices.sigma, choices.radius)
        levels = torch.where(levels >= choices.threshold, 255 - levels, levels)
    return levels.to(torch.uint8)


def _rounded(levels: Tensor) -> Tensor:
    """Round to whole levels, half to even like OpenCV, and clip; changes its argument."""
    return levels.round_().clamp_(0, 255)


def luma(
    levels: Tensor,  # (B, 3, S, S)
) -> Tensor:  # (B, 1, S, S)
    """The gray version of each view, not rounded."""
    red, green, blue = levels.split(1, dim=1)
    return (_RED * red).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)


def blend(
    levels: Tensor,  # (B, 3, S, S)
    coefficients: Tensor,  # (3, B, 1, 1, 1): a, b, c
) -> Tensor:  # (B, 3, S, S)
    """a x + b mean gray + c gray: brightness (f, 0, 0), contrast (f, 1 - f, 0), saturation (f, 0, 1 - f)."""
    own, mean_share, gray_share = coefficients
    gray = luma(levels)
    base = mean_share * gray.mean((2, 3), keepdim=True) + gray_share * gray
    return _rounded((own * levels).add_(base))


def rotate_hue(
    levels: Tensor,  # (B, 3, S, S)
    shift: Tensor,  # (B, 1, 1, 1)
) -> Tensor:  # (B, 3, S, S)
    """Rotate the hue by a fraction of a turn; the largest and the smallest channel keep their values.

    Hues are in sixths of a turn: red is at 0, green at 2, blue at 4. A channel is max - (max - min) * t,
    where t is the distance of the hue to the channel's place on the circle, minus 1, clipped to [0, 1].
    """
    red, green, blue = levels.split(1, dim=1)
    highest, lowest = levels.amax(1, keepdim=True), levels.amin(1, keepdim=True)
    chroma = highest - lowest
    hue = torch.where(
        highest == red,
        green - blue,
        torch.where(highest == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    ) / chroma.clamp(min=1)  # 0 for gray, whose chroma is 0
    hue += 6 * shift
    places = torch.arange(0, 6, 2, device=levels.device).view(3, 1, 1)
    distance = (hue - places + 3).remainder_(6).sub_(3).abs_()  # (B, 3, S, S), in [0, 3]
    return _rounded(highest - chroma * distance.sub_(1).clamp_(0, 1))


def blur(
    levels: Tensor,  # (B, 3, S, S)
    sigma: Tensor,  # (B, 1, 1, 1), above 0
    radius: Tensor,  # (B, 1, 1, 1), below S
) -> Tensor:  # (B, 3, S, S)
    """Gaussian blur with mirrored borders; a radius of 0 changes nothing.

    Each view has its own kernel, so the blur is a product with one matrix per view, on both sides. TF32 has
    11 significant bits; if the products use it, the error before rounding is at most 0.4 levels.
    """
    matrix = blur_matrix(levels.shape[-1], sigma, radius)
    return _rounded(matrix @ levels @ matrix.mT)


def blur_matrix(
    size: int,
    sigma: Tensor,  # (B, 1, 1, 1)
    radius: Tensor,  # (B, 1, 1, 1)
) -> Tensor:  # (B, 1, size, size)
    """Entry (i, j) is the weight of pixel j in blurred pixel i.

    The border mirrors without repeating the last pixel: pixel j also stands at -j and at 2 (size - 1) - j.
    """
    pixels = torch.arange(size, device=sigma.device, dtype=torch.float32)
    row, column = pixels[:, None], pixels

    def weight(distance: Tensor) -> Tensor:
        gaussian = torch.exp(-0.5 * (distance / sigma).square())
        return gaussian * (distance.abs() <= radius)

    weights = weight(row - column)
    weights += weight(row + column) * (column > 0)
    weights += weight(2 * (size - 1) - row - column) * (column < size - 1)
    return weights / weights.sum(-1, keepdim=True)
