"""Compose images from digit scans and photographs: pure functions of arrays and a random generator.

Images are float32 (H, W, 3) RGB with values in 0..255 until `to_uint8`; masks are bool (H, W). A box is
(left, top, right, bottom) in pixels, 0-based, with exclusive right and bottom edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
INK = 0.5  # a pixel belongs to a digit if its opacity is at least this value


@dataclass(frozen=True)
class Composition:
    """How digits are drawn on a background. Pairs are uniform ranges; contrasts are in gray levels."""

    background_contrast: float  # scales the photograph around its mean; 0 gives a flat ground
    ground: tuple[float, float] | None  # gray level of the background; None keeps the photograph's
    contrast: tuple[float, float]  # absolute luminance difference between ground and ink
    chroma: float  # maximum color cast of ground and ink
    height: tuple[float, float]  # pixels from the first to the last row of the scan
    rotation: float  # maximum rotation in degrees, in either direction
    noise: float  # standard deviation of the pixel noise
    shift: float = 0.0  # maximum distance from the center in pixels (single digits only)
    dark: float = 0.5  # probability of ink darker than its ground
    faint: tuple[float, float] = (9.0, 14.0)  # contrast of a difficult digit
    difficult: float = 0.0  # probability of a difficult digit
    truncated: float = 0.0  # probability that a digit crosses the border


# Two augmented views of a single-digit image should have little in common except the digit. With a strong
# photograph in the background, views are matched by the background and the digit is never learned.
# Brightness, contrast and color vary widely, so that random networks cannot solve the task; color jitter
# removes this variation. The ink is always lighter than the ground, because no augmentation changes the
# polarity, and views could easily be matched by it.
SINGLE = Composition(
    background_contrast=0.1,
    ground=(40.0, 110.0),
    contrast=(50.0, 120.0),
    chroma=30.0,
    height=(17.0, 26.0),
    rotation=15.0,
    noise=5.0,
    shift=4.0,
    dark=0.0,
)
# Scenes have the polarity and brightness of the single digits, so that what pre-training learns can transfer,
# but more of the photograph, more colors and several digits.
SCENE = Composition(
    background_contrast=0.3,
    ground=(40.0, 110.0),
    contrast=(70.0, 120.0),
    chroma=40.0,
    height=(22.0, 34.0),
    rotation=15.0,
    noise=3.0,
    dark=0.0,
    difficult=0.08,
    truncated=0.15,
)
SHARP = replace(SCENE, difficult=0.0)  # COCO has no difficult objects
MIN_INSIDE = 0.55  # minimum fraction of a truncated digit inside the image
MIN_VISIBLE = 0.75  # minimum fraction of a digit that is not covered by others
MAX_BOX_IOU = 0.2
PLACEMENT_TRIES = 40


@dataclass(frozen=True)
class Instance:
    label: int  # 0..9
    scans: tuple[int, ...]  # rows of load_digits(); several for a crowd
    mask: Mask  # visible pixels
    pixels: int  # pixels inside the image, including those covered by other digits
    truncated: bool = False
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    image: Array
    instances: tuple[Instance, ...] = ()  # in drawing order: later ones cover earlier ones


def to_uint8(image: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def mask_box(mask: Mask) -> tuple[int, int, int, int]:
    """The tight bounding box of a mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def render_glyph(scan: NDArray[np.float64], height: float, degrees: float) -> Array:
    """The ink of an 8x8 scan (0..16) as opacity in 0..1; scaled, rotated and tightly cropped."""
    import cv2

    side = int(np.ceil(1.5 * height)) + 4
    matrix = cv2.getRotationMatrix2D((3.5, 3.5), degrees, height / 8)
    matrix[:, 2] = matrix[:, 2] + (side - 1) / 2 - 3.5
    ink = cv2.warpAffine(
        (scan / 16).astype(np.float32), matrix, (side, side), flags=cv2.INTER_CUBIC
    )
    opacity = np.clip((ink - 0.33) / 0.3, 0, 1)  # sharpens edges blurred by upscaling
    left, top, right, bottom = mask_box(opacity > 0)
    return opacity[top:bottom, left:right]


def crop_photograph(
    rng: np.random.Generator, photographs: Sequence[Array], size: tuple[int, int]
) -> Array:
    """A random (height, width) crop, downscaled by 2 to contain more structure, randomly mirrored."""
    import cv2

    photograph = photographs[int(rng.integers(len(photographs)))]
    height, width = 2 * size[0], 2 * size[1]
    top = rng.integers(photograph.shape[0] - height + 1)
    left = rng.integers(photograph.shape[1] - width + 1)
    crop: Array = photograph[top : top + height, left : left + width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    small = cv2.resize(np.ascontiguousarray(crop), size[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float32)


def cast(rng: np.random.Generator, chroma: float) -> Array:
    """A random color offset (3,) that does not change the luminance."""
    offset = rng.uniform(-chroma, chroma, 3)
    return (offset - offset @ LUMA).astype(np.float32)


def background(
    rng: np.random.Generator,
    photographs: Sequence[Array],
    size: tuple[int, int],
    style: Composition,
) -> Array:
    crop = crop_photograph(rng, photographs, size)
    mean = crop.mean((0, 1))
    level: Array = mean
    if style.ground is not None:
        level = rng.uniform(*style.ground) + cast(rng, style.chroma)
    return (level + style.background_contrast * (crop - mean)).astype(np.float32)


def stamp(opacity: Array, top: int, left: int, size: tuple[int, int]) -> Array:
    """Place the opacity on an empty canvas of `size`, clipped at the border."""
    canvas = np.zeros(size, np.float32)
    rows = slice(max(top, 0), min(top + opacity.shape[0], size[0]))
    columns = slice(max(left, 0), min(left + opacity.shape[1], size[1]))
    canvas[rows, columns] = opacity[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return canvas


def paint(
    rng: np.random.Generator,
    image: Array,
    opacity: Array,  # (H, W), the image's size
    contrast: float,
    chroma: float,
    *,
    dark: float = 0.5,
) -> Array:
    """Blend one color over the image; its luminance differs by `contrast` from the covered pixels."""
    ground = image[opacity >= INK].mean(0)
    level = float(ground @ LUMA)
    sign = -1.0 if rng.random() < dark else 1.0
    if not 10 <= level + sign * contrast <= 245:
        sign = -sign
    color = ground + sign * contrast + cast(rng, chroma)
    return image + opacity[..., None] * (color - image)


def add_noise(rng: np.random.Generator, image: Array, style: Composition) -> Array:
    return image + rng.normal(0, style.noise, image.shape).astype(np.float32)


def single_digit(
    rng: np.random.Generator,
    photographs: Sequence[Array],
    scan: NDArray[np.float64],
    side: int = 32,
    style: Composition = SINGLE,
) -> NDArray[np.uint8]:
    """One digit near the center of a low-contrast background."""
    image = background(rng, photographs, (side, side), style)
    glyph = render_glyph(
        scan, rng.uniform(*style.height), rng.uniform(-style.rotation, style.rotation)
    )
    corner = [
        round((side - extent) / 2 + rng.uniform(-style.shift, style.shift))
        for extent in glyph.shape
    ]
    opacity = stamp(glyph, corner[0], corner[1], (side, side))
    contrast = rng.uniform(*style.contrast)
    image = paint(rng, image, opacity, contrast, style.chroma, dark=style.dark)
    return to_uint8(add_noise(rng, image, style))


def draw_corner(
    rng: np.random.Generator, size: tuple[int, int], glyph: tuple[int, int], truncated: bool
) -> tuple[int, int]:
    """Top and left of a glyph: inside the image, or crossing one of its borders if `truncated`."""
    corner = [int(rng.integers(max(1, s - g + 1))) for s, g in zip(size, glyph, strict=True)]
    if truncated:
        axis = int(rng.integers(2))
        outside = round(rng.uniform(0.15, 0.4) * glyph[axis])
        before = rng.random() < 0.5
        corner[axis] = -outside if before else size[axis] - glyph[axis] + outside
    return corner[0], corner[1]


def has_room(scene: Scene, mask: Mask) -> bool:
    """Whether a digit can be drawn without covering too much of the existing ones."""
    box = mask_box(mask)
    return all(
        (other.mask & ~mask).sum() >= MIN_VISIBLE * other.pixels
        and box_iou(mask_box(other.mask), box) <= MAX_BOX_IOU
        for other in scene.instances
    )


def place_digit(
    rng: np.random.Generator,
    scene: Scene,
    label: int,
    index: int,
    scan: NDArray[np.float64],
    style: Composition,
) -> Scene:
    """Draw one more digit; returns the scene unchanged if there is no room."""
    size = scene.image.shape[0], scene.image.shape[1]
    glyph = render_glyph(
        scan, rng.uniform(*style.height), rng.uniform(-style.rotation, style.rotation)
    )
    truncated, difficult = rng.random() < style.truncated, bool(rng.random() < style.difficult)
    whole = int((glyph >= INK).sum())
    for _ in range(PLACEMENT_TRIES):
        opacity = stamp(glyph, *draw_corner(rng, size, glyph.shape, truncated), size)
        mask = opacity >= INK
        pixels = int(mask.sum())
        if pixels >= MIN_INSIDE * whole and has_room(scene, mask):
            break
    else:
        return scene
    contrast = rng.uniform(*(style.faint if difficult else style.contrast))
    image = paint(
        rng, scene.image, opacity, contrast, style.chroma * (not difficult), dark=style.dark
    )
    below = tuple(replace(other, mask=other.mask & ~mask) for other in scene.instances)
    new = Instance(label, (index,), mask, pixels, truncated=pixels < whole, difficult=difficult)
    return Scene(image, (*below, new))


def place_crowd(
    rng: np.random.Generator,
    scene: Scene,
    label: int,
    scans: dict[int, NDArray[np.float64]],  # row of load_digits() -> scan
    style: Composition,
    cell: int = 13,
) -> Scene:
    """Draw two rows of tiny digits of one class, which form one crowd."""
    size = scene.image.shape[0], scene.image.shape[1]
    columns = -(-len(scans) // 2)
    top = int(rng.integers(size[0] - 2 * cell))
    left = int(rng.integers(max(1, size[1] - columns * cell)))
    image, union = scene.image, np.zeros(size, np.bool_)
    for number, scan in enumerate(scans.values()):
        row, column = divmod(number, columns)
        glyph = render_glyph(scan, rng.uniform(9, 11), rng.uniform(-10, 10))
        opacity = stamp(glyph, top + row * cell, left + column * cell, size)
        contrast = rng.uniform(*style.contrast)
        image = paint(rng, image, opacity, contrast, style.chroma, dark=style.dark)
        union |= opacity >= INK
    crowd = Instance(label, tuple(scans), union, int(union.sum()), crowd=True)
    return Scene(image, (*scene.instances, crowd))
