"""Random crops of images with their label maps, and the batches of training.

The operations and the order of the random numbers are MMSegmentation's (RandomResize and RandomFlip in
mmcv/transforms/processing.py, RandomCrop and PhotoMetricDistortion in mmseg/datasets/transforms): with the
state of NumPy's global generator, ``random`` gives the same sample.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.spec import Normalization
from msbreg.data.loading import stream
from msbreg.data.segmentation.label_maps import VOID, LabelMaps
from msbreg.data.training_order import Key, endless_order, random_state, share_of_batch
from msbreg.run.errors import UserError
from transfer.segmenters.segmentation_config import AugmentationOptions, Size

ATTEMPTS = 10  # crops drawn while one class covers too much


@dataclass(frozen=True)
class Batch:
    """Crops of one size; smaller ones are at the top left.

    Attributes:
        pixels: (B, 3, H, W) uint8 RGB.
        labels: (B, H, W) uint8, VOID outside of the crops.
        sizes: (B, 2) int64, height and width of each crop.
    """

    pixels: Tensor
    labels: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def pin_memory(self) -> "Batch":
        """In pinned memory; called by PyTorch's loader."""
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory(), self.sizes.pin_memory())

    def split(self, size: int) -> "list[Batch]":
        """Parts of ``size`` crops each."""
        parts = zip(*(t.split(size) for t in (self.pixels, self.labels, self.sizes)), strict=True)
        return [Batch(*part) for part in parts]


def normalized(
    pixels: Tensor,  # (B, 3, H, W) uint8 RGB
    sizes: Tensor | None,  # (B, 2)
    normalization: Normalization,
) -> Tensor:  # (B, 3, H, W) float32
    """The input of the network: (pixels - mean) / std, and 0 outside of the crops."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
        for values in (normalization.pixel_mean, normalization.pixel_std)
    )
    out = pixels.float()
    if normalization.channels == "BGR":
        out = out.flip(1)
    out = (out - mean) / std
    if sizes is not None:
        rows, columns = (torch.arange(n, device=out.device) for n in out.shape[-2:])
        height, width = sizes.to(out.device).T
        inside = (rows < height[:, None])[:, :, None] & (columns < width[:, None])[:, None, :]
        out = out * inside[:, None]
    return out


# ---- One sample


def training_crop(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    labels: np.ndarray,  # (H, W) uint8
    options: AugmentationOptions,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:  # (h, w, 3) and (h, w) uint8, at most as large as the crop
    """A randomly scaled, cropped, flipped and recolored part of an image, with its labels."""
    low, high = options.scales
    scale = random.random_sample() * (high - low) + low
    size = scaled_size(labels.shape, scale, options.base)
    image, labels = resize_image(image, size), resize_labels(labels, size)
    window = crop_window(labels, options, random)
    image, labels = image[window], labels[window]
    if random.random_sample() < options.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return (distort(image, random) if options.photometric else image), labels


def scaled_size(shape: tuple[int, ...], scale: float, base: Size | None) -> Size:
    """Height and width of an image at a scale.

    Args:
        shape: height and width of the image.
        base: longer and shorter side that scale 1 fits into, keeping the aspect ratio; None is the image's
            own size.

    >>> scaled_size((300, 500), 0.5, None), scaled_size((300, 500), 1.0, (2048, 512))
    ((150, 250), (512, 853))
    """
    height, width = shape[:2]
    factor = scale
    if base is not None:
        longer, shorter = (int(side * scale) for side in (max(base), min(base)))
        factor = min(longer / max(height, width), shorter / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear interpolation; without antialiasing, as OpenCV does it."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """The nearest label."""
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def crop_window(
    labels: np.ndarray,  # (H, W) uint8
    options: AugmentationOptions,
    random: np.random.RandomState,
) -> tuple[slice, slice]:
    """A random window of the size of the crop, or as large as the image."""

    def draw() -> tuple[slice, slice]:
        top, left = (
            random.randint(0, max(side - wanted, 0) + 1)
            for side, wanted in zip(labels.shape, options.crop, strict=True)
        )
        return slice(top, top + options.crop[0]), slice(left, left + options.crop[1])

    window = draw()
    if options.largest_class < 1:
        for _ in range(ATTEMPTS):
            counts = np.bincount(labels[window].ravel(), minlength=VOID + 1)[:VOID]
            if (counts > 0).sum() > 1 and counts.max() / counts.sum() < options.largest_class:
                break
            window = draw()
    return window


def distort(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    random: np.random.RandomState,
) -> np.ndarray:  # (H, W, 3) uint8 RGB
    """Change brightness, contrast, saturation and hue, each with probability 1/2."""
    if random.randint(2):
        image = _linear(image, 1.0, random.uniform(-32, 32))
    contrast_first = random.randint(2) == 1
    if contrast_first and random.randint(2):
        image = _linear(image, random.uniform(0.5, 1.5))
    if random.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 1] = _linear(hsv[:, :, 1], random.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if random.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + random.randint(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first and random.randint(2):
        image = _linear(image, random.uniform(0.5, 1.5))
    return image


def _linear(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    changed = values.astype(np.float32) * factor + offset
    return np.clip(changed, 0, 255).astype(np.uint8)


# ---- Batches


@dataclass(frozen=True)
class TrainingCrops:
    """Makes training samples; a class, because it is pickled to spawned workers."""

    source: LabelMaps
    options: AugmentationOptions
    seed: int

    def __call__(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        position, index = key
        image, labels = self.source.image(index), self.source.label(index)
        if image.shape[:2] != labels.shape:
            raise UserError(
                f"{self.source.name(index)} and its label map {self.source.map_name(index)} differ in size: "
                f"{image.shape[:2]} and {labels.shape}"
            )
        return training_crop(image, labels, self.options, random_state(self.seed, position))


def collate(samples: list[tuple[np.ndarray, np.ndarray]], crop: Size) -> Batch:
    """Put crops at the top left of (H, W), with void labels around them."""
    pixels = np.zeros((len(samples), *crop, 3), np.uint8)
    labels = np.full((len(samples), *crop), VOID, np.uint8)
    for i, (image, own) in enumerate(samples):
        height, width = own.shape
        pixels[i, :height, :width], labels[i, :height, :width] = image, own
    sizes = torch.tensor([own.shape for _, own in samples])
    return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels), sizes)


@dataclass(frozen=True)
class _Collate:
    crop: Size

    def __call__(self, samples: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
        return collate(samples, self.crop)


def training_batches(
    source: LabelMaps,
    options: AugmentationOptions,
    *,
    batch: int,
    seed: int,
    first: int,
    rank: int,
    world: int,
    workers: int,
    pin_memory: bool = False,
) -> Generator[Batch]:
    """This process's batches from iteration ``first`` on, until the generator is closed.

    Order and pixels are functions of seed, process and iteration.

    Args:
        batch: batch size over all processes.
        rank, world: index of this process, and number of processes.
        workers: number of decoding processes; 0 decodes in this process.

    Raises:
        UserError: the batch cannot be divided among the processes, or an image cannot be read.
        RunFailed: a worker process died.
    """
    share = share_of_batch(batch, world, name="solver.batch_size")

    def keys() -> Iterator[list[Key]]:
        order = endless_order(len(source), seed, rank=rank, world=world)
        return islice(iter(lambda: list(islice(order, share)), []), first, None)

    make = TrainingCrops(source, options, seed)
    with closing(
        stream(make, keys, _Collate(options.crop), workers=workers, pin_memory=pin_memory)
    ) as batches:
        yield from batches
