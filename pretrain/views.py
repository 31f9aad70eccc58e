"""The K augmented views of an image: crop, flip, color jitter, gray, blur, solarize.

``sample`` makes all random choices of a view; ``apply`` is deterministic. Pixels remain uint8 RGB
throughout; they are normalized on the device.

Compared with torchvision's functions in floating point, photographs differ by at most 0.5 of 255 levels in
brightness, contrast and hue, 0.6 in gray, and 0.75 in saturation and blur (0.25 on average, which is one
rounding). The crop matches Pillow's antialiased resize within 2 levels (0.03 on average). A complete view
differs by 0.3 levels on average and by at most 4. tests/pretrain/test_views.py checks these bounds.

Workers call ``cv2.setNumThreads(0)`` and ``torch.set_num_threads(1)``, because they already run in parallel.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np

from msbreg.data.transforms import resize, sample_crop
from msbreg.run.errors import UserError

JITTER = ("brightness", "contrast", "saturation", "hue")
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601, of R, G and B


@dataclass(frozen=True)
class Augmentation:
    """One distribution of views. The defaults are those of Table 9 of MSBReg (arXiv 2207.03552).

    Settings that the table omits follow BYOL (arXiv 2006.07733, Table 6) and SimCLR (arXiv 2002.05709,
    appendix A): crop area and ratio, bicubic interpolation, blur kernel and sigma, solarize threshold.
    """

    size: int = 224
    """Side of a view, in pixels."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Range of the crop area as a fraction of the image area; sampled uniformly."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the aspect ratio, width / height; sampled log-uniformly."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.8
    """Probability of color jitter, which applies all four adjustments in random order."""
    brightness: float = 0.4
    """b: the factor is uniform in [max(0, 1 - b), 1 + b]. The same holds for contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    """h: the shift is uniform in [-h, h], in turns of the color wheel."""
    gray: float = 0.2
    """Probability of conversion to gray."""
    blur: float = 1.0
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the standard deviation of the blur, in pixels of the view; sampled uniformly."""
    blur_kernel: float = 0.1
    """Size of the blur kernel as a fraction of ``size``, rounded to an odd number: 23 at 224."""
    solarize: float = 0.2
    """Probability of solarization, which inverts values of at least ``solarize_threshold``."""
    solarize_threshold: int = 128
    interpolation: str = "bicubic"
    """``bicubic`` or ``bilinear``, both antialiased."""

    def __post_init__(self) -> None:
        if self.size < 1:
            self._refuse("size", "a positive number of pixels")
        for name in ("flip", "jitter", "gray", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                self._refuse(name, "a probability from 0 (never) to 1 (always)")
        for name, highest in (("crop_area", 1.0), ("crop_ratio", math.inf), ("blur_sigma", 1e3)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= highest:
                self._refuse(name, f"0 < lowest <= highest <= {highest:g}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                self._refuse(name, "a strength of 0 (off) or more")
        if not 0 <= self.hue <= 0.5:
            self._refuse("hue", "a shift from 0 (off) to 0.5 turns")
        if not 0 < self.blur_kernel <= 1:
            self._refuse("blur_kernel", "a fraction of the view's side, above 0 and up to 1")
        if not 0 <= self.solarize_threshold <= 256:
            self._refuse("solarize_threshold", "a level from 0 (all) to 256 (none)")
        if self.interpolation not in ("bicubic", "bilinear"):
            self._refuse("interpolation", "'bicubic' or 'bilinear'")

    def _refuse(self, name: str, expected: str) -> None:
        given = getattr(self, name)
        raise UserError(
            f"{name} of the augmentation is {given!r}; expected {expected}. "
            f"Change it, or omit it to use the default, {type(self).__dict__[name]!r}."
        )


# View j uses entry j modulo the number of entries.
POLICIES: dict[str, tuple[dict[str, float], ...]] = {
    # MSBReg, Table 9, as printed: one distribution for all views.
    "table9": ({"blur": 1.0, "solarize": 0.2},),
    # BYOL, Table 6: T for even views, T' for odd views.
    "byol_alternate": ({"blur": 1.0, "solarize": 0.0}, {"blur": 0.1, "solarize": 0.2}),
    # BYOL, Table 17: the symmetric variant with the same accuracy (72.5).
    "byol_sym": ({"blur": 0.5, "solarize": 0.2},),
}


def policy(name: str, size: int, **overrides: Any) -> tuple[Augmentation, ...]:
    """The distributions of the named policy; overrides apply to all of them."""
    if name not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise UserError(f"augmentation policy {name!r} is unknown; expected one of: {known}")
    options = [field.name for field in fields(Augmentation) if field.name != "size"]
    if unknown := sorted(set(overrides) - set(options)):
        raise UserError(
            f"augmentation option {', '.join(unknown)} is unknown; "
            f"expected one of: {', '.join(options)}"
        )
    return tuple(Augmentation(size=size, **{**own, **overrides}) for own in POLICIES[name])


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """The random choices of one view."""

    top: int
    left: int
    height: int
    width: int
    """The crop in pixels of the image: rows [top, top + height), columns [left, left + width)."""
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    """(adjustment, factor or shift) in order of application; empty without jitter."""
    gray: bool
    blur_sigma: float
    """0 means no blur."""
    solarize: bool


def _between(lowest: float, highest: float, share: float) -> float:
    return lowest + share * (highest - lowest)


def sample(
    augmentation: Augmentation, height: int, width: int, generator: np.random.Generator
) -> ViewParameters:
    """Sample the random choices of one view of an image of height x width pixels.

    Every view draws the same number of random values, so changing one probability does not change the other
    choices.
    """
    crop = sample_crop(
        height, width, generator, area=augmentation.crop_area, ratio=augmentation.crop_ratio
    )
    flip, jitters, gray, blurs, solarize, sigma, *rest = generator.random(14).tolist()
    ranks, shares = rest[:4], rest[4:]
    jitter = []
    for part in sorted(range(4), key=ranks.__getitem__):
        name = JITTER[part]
        strength = getattr(augmentation, name)
        lowest, highest = max(0.0, 1 - strength), 1 + strength  # range of the factor
        if name == "hue":
            lowest, highest = -strength, strength  # range of the shift
        if strength > 0 and jitters < augmentation.jitter:
            jitter.append((name, _between(lowest, highest, shares[part])))
    return ViewParameters(
        *crop,
        flip=flip < augmentation.flip,
        jitter=tuple(jitter),
        gray=gray < augmentation.gray,
        blur_sigma=_between(*augmentation.blur_sigma, sigma) if blurs < augmentation.blur else 0.0,
        solarize=solarize < augmentation.solarize,
    )


# The operations map (H, W, 3) uint8 RGB to the same shape and type; none works in place.


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=factor)  # the factor is never negative


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray of the view."""
    mean = float(LUMA @ cv2.mean(image)[:3])
    return cv2.addWeighted(image, factor, image, 0.0, (1 - factor) * mean)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the gray version of the view."""
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * LUMA)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Rotate the hue by a fraction of a turn; saturation and value are preserved.

    Computed in float32, which is as fast as OpenCV's uint8 HSV; quantizing the hue to 8 bits would cause
    errors of up to 6 levels.
    """
    hsv: np.ndarray = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)  # hue in [0, 360)
    hsv[..., 0] += 360 * (shift % 1)  # cvtColor wraps [360, 720), but not negative values
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def gray(image: np.ndarray) -> np.ndarray:
    return cv2.transform(image, np.tile(LUMA, (3, 1)))


def blur_radius(size: int, sigma: float, kernel: float) -> int:
    """Radius of the blur kernel, in pixels; ``kernel`` is its size as a fraction of the side, ``size``.

    The kernel is truncated at 3 sigma if the protocol's is wider. This omits 0.27 % of the weight in one
    dimension and 0.54 % in two: at most 1.4 levels, 0.3 on photographs.
    """
    return min(math.floor(kernel * size / 2), math.ceil(3 * sigma))  # SimCLR: 11 at 224


def blur(image: np.ndarray, sigma: float, kernel: float) -> np.ndarray:
    """Gaussian blur with mirrored borders and the radius of ``blur_radius``."""
    radius = blur_radius(len(image), sigma, kernel)
    weights = cv2.getGaussianKernel(2 * radius + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(image, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert all values >= threshold."""
    bright = cv2.threshold(image, threshold - 1, 255, cv2.THRESH_BINARY)[1]
    return cv2.bitwise_xor(image, bright)  # x ^ 255 = 255 - x


_JITTER = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def crop(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    parameters: ViewParameters,
    augmentation: Augmentation,
) -> np.ndarray:  # (size, size, 3) uint8 RGB
    """Crop and resize: the first step of ``apply``, and the only one that depends on the image's size."""
    bottom, right = parameters.top + parameters.height, parameters.left + parameters.width
    part = image[parameters.top : bottom, parameters.left : right]
    return resize(part, augmentation.size, augmentation.size, augmentation.interpolation)


def apply(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    parameters: ViewParameters,
    augmentation: Augmentation,
) -> np.ndarray:  # (size, size, 3) uint8 RGB
    """Compute the view described by the parameters, in BYOL's order of operations."""
    view = crop(image, parameters, augmentation)
    if parameters.flip:
        view = cv2.flip(view, 1)
    for part, amount in parameters.jitter:
        view = _JITTER[part](view, amount)
    if parameters.gray:
        view = gray(view)
    if parameters.blur_sigma > 0:
        view = blur(view, parameters.blur_sigma, augmentation.blur_kernel)
    if parameters.solarize:
        view = solarize(view, augmentation.solarize_threshold)
    return view


def make_views(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    policy: tuple[Augmentation, ...],
    views: int,
    generator: np.random.Generator,
) -> np.ndarray:  # (views, 3, size, size) uint8 RGB
    """Independent views of one image; view j is drawn from ``policy[j % len(policy)]``."""
    assert (image.dtype, image.ndim) == (np.uint8, 3), (image.dtype, image.shape)
    assert min(image.shape) > 0, image.shape
    assert image.shape[2] == 3, image.shape
    assert len({augmentation.size for augmentation in policy}) == 1, "views of one size"
    size = policy[0].size
    stacked = np.empty((views, 3, size, size), np.uint8)
    for j in range(views):
        augmentation = policy[j % len(policy)]
        parameters = sample(augmentation, image.shape[0], image.shape[1], generator)
        # cv2.split writes directly into the channels: five times as fast as copying a transpose.
        cv2.split(apply(image, parameters, augmentation), list(stacked[j]))
    return stacked
