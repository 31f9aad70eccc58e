"""Dense kNN: a memory of patch features with soft labels, and label maps from their nearest neighbors.

The retrieval of Hummingbird (Balazevic et al., arXiv 2306.01667, 3.1 and 3.2; section numbers from memory) as
re-implemented in vpariza/open-hummingbird-eval (hbird/hbird_eval.py), whose rules of sampling and weighting
are followed here. Three things differ: void pixels have no class here and are class 0 there; the first pass
over the training images takes them whole; and crops keep their colors.
"""

import contextlib
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.features import feature_batches
from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.resnet import ResNet
from msbreg.data.segmentation.label_maps import VOID, LabelMaps
from msbreg.data.training_order import testing_share
from msbreg.data.transforms import EvaluationTransform, image_generator, sample_crop
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.failures import Agreement
from msbreg.run.progress import Progress
from transfer.segmenters.fcn import dilate
from transfer.segmenters.segmentation_config import MemoryOptions

BATCH = 16
"""Images in a forward pass. Processes take whole batches, so that features do not depend on their number."""


# ---- Mathematics


def patch_shares(
    labels: np.ndarray,  # (H, W) uint8
    grid: int,
    classes: int,
) -> np.ndarray:  # (grid * grid, classes) float32
    """Share of each class among the labeled pixels of each patch; zeros where no pixel is labeled.

    The patches divide height and width into ``grid`` equal parts; a pixel belongs to the one that contains
    its center.

    >>> patch_shares(np.array([[0, 1], [255, 1]], np.uint8), 1, 2).round(2)
    array([[0.33, 0.67]], dtype=float32)
    """
    rows, columns = ((2 * np.arange(n) + 1) * grid // (2 * n) for n in labels.shape)
    patches = rows[:, None] * grid + columns
    values = VOID + 1
    counts = np.bincount((patches * values + labels).ravel(), minlength=grid * grid * values)
    labeled = counts.reshape(grid * grid, values)[:, :classes]
    return (labeled / np.maximum(labeled.sum(1, keepdims=True), 1)).astype(np.float32)


def choose_patches(
    shares: np.ndarray,  # (T, C)
    count: int | None,
    generator: np.random.Generator,
) -> np.ndarray:  # (n,) ascending
    """Patches of one image for the memory: at most ``count`` of those with a label (None: all).

    Patches with rare classes are preferred: those with the smallest products of a uniform random number and
    the sum, over the classes in the patch, of the number of patches with this class.
    """
    labeled = np.flatnonzero(shares.any(1))
    if count is None or len(labeled) <= count:
        return labeled
    present = shares[labeled] > 0
    scores = (present @ present.sum(0)) * generator.random(len(labeled))
    return np.sort(labeled[np.argsort(scores, kind="stable")[:count]])


def soft_labels(
    similarities: np.ndarray,  # (Q, k) cosines
    labels: np.ndarray,  # (Q, k, C) of the neighbors
    temperature: float,
) -> np.ndarray:  # (Q, C) float32
    """Mean of the neighbors' labels with weights softmax(similarity / temperature).

    >>> soft_labels(np.array([[0.5, 0.5]]), np.array([[[1.0, 0.0], [0.0, 1.0]]]), 0.02)
    array([[0.5, 0.5]], dtype=float32)
    """
    scaled = (similarities - similarities.max(1, keepdims=True)) / temperature
    weights = np.exp(scaled)
    weights /= weights.sum(1, keepdims=True)
    mean = weights[:, None].astype(np.float32) @ labels.astype(np.float32, copy=False)
    return mean[:, 0]


def upsampled_labels(
    soft: np.ndarray,  # (grid * grid, C) float32
    size: tuple[int, int],  # (H, W)
) -> np.ndarray:  # (H, W) uint8
    """The class with the largest value after bilinear interpolation; the smallest index wins ties."""
    grid = math.isqrt(len(soft))
    present = np.flatnonzero(soft.any(0))  # the others are 0 everywhere and take memory
    maps = torch.from_numpy(np.ascontiguousarray(soft[:, present].T)).view(1, -1, grid, grid)
    scores = F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]
    labels: np.ndarray = present.astype(np.uint8)[scores.argmax(0).numpy()]
    return labels


# ---- The network on a grid


def to_square(side: int) -> EvaluationTransform:
    """Resize whole images to side x side pixels, without preserving the aspect ratio."""
    return EvaluationTransform(resize=0, crop=side, squash=True)


def dilated(backbone: Backbone, output_stride: int) -> ResNet:
    """The backbone with dilated stages, so that c5 has this stride; changed in place.

    Raises:
        UserError: it is not a ResNet, or cannot have this stride.
    """
    if not isinstance(backbone, ResNet):
        raise UserError(
            f"output_stride is {output_stride}, but a {type(backbone).__name__} is not a ResNet and cannot "
            "be dilated; omit it, or give --output-stride null"
        )
    return dilate(backbone, output_stride)


def patches_per_side(network: FrozenBackbone, side: int) -> int:
    """Number of patches along each side of an image of side x side pixels.

    Raises:
        UserError: the network does not divide the image into equal square patches.
    """
    count = network(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1]
    grid = math.isqrt(count)
    if grid * grid != count:
        raise UserError(
            f"the network gives {count} features for a square image; expected a square number, one for each "
            "patch"
        )
    if side % grid:
        patch = -(-side // grid)
        raise UserError(
            f"side is {side}, which the network divides into {grid} x {grid} patches; expected a multiple of "
            f"the patch size, such as --side {patch * grid}"
        )
    return grid


# ---- The memory


@dataclass(frozen=True)
class MemoryViews:
    """The images of all passes, one pass after the other; crops are functions of seed, pass and image."""

    source: LabelMaps
    options: MemoryOptions
    seed: int

    def __len__(self) -> int:
        return self.options.passes * len(self.source)

    def image(self, i: int) -> np.ndarray:  # (h, w, 3) uint8 RGB
        """View i: a whole image or a part of it."""
        return self._part(i, self.source.image(i % len(self.source)))

    def label(self, i: int) -> np.ndarray:  # (h, w) uint8
        """The labels of the same part."""
        return self._part(i, self.source.label(i % len(self.source)))

    def _part(self, i: int, whole: np.ndarray) -> np.ndarray:
        number, index = divmod(i, len(self.source))
        if number == 0:
            return whole
        generator, options = image_generator(self.seed, number, index), self.options
        height, width = whole.shape[:2]
        top, left, height, width = sample_crop(
            height, width, generator, area=options.area, ratio=options.ratio
        )
        part = whole[top : top + height, left : left + width]
        return part[:, ::-1] if generator.random() < options.flip else part


@dataclass(frozen=True)
class PatchMemory:
    """M patches, in the order of their views and places.

    Attributes:
        features: (M, D) float32; their lengths do not matter to the cosine.
        labels: (M, C) float32, the share of each class among the patch's labeled pixels.
    """

    features: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


def build_memory(
    network: FrozenBackbone,  # of tokens
    views: MemoryViews,
    side: int,
    *,
    threads: int,
) -> PatchMemory:
    """The memory of all views, the same in every process; each process computes a part of it.

    Raises:
        UserError: the memory is smaller than the number of views, or an image cannot be read.
    """
    grid, classes = patches_per_side(network, side), len(views.source.classes)
    limit = _patches_of_each(views)
    mine = share_in_batches(len(views))
    most = len(mine) * min(grid * grid, limit or grid * grid)
    # Memory of its full size at once: lists that are concatenated would take twice as much.
    features, labels = (
        np.empty((most, network.width), np.float32),
        np.empty((most, classes), np.float32),
    )
    filled = 0
    batches = feature_batches(
        network, views, mine, transform=to_square(side), batch_size=BATCH, threads=threads
    )
    with (
        Agreement(),
        contextlib.closing(batches),
        Progress("memory", len(mine), unit="images") as progress,
    ):
        for first, tokens in batches:
            for i, rows in zip(mine[first : first + len(tokens)], tokens, strict=True):
                shares = patch_shares(views.label(i), grid, classes)
                chosen = choose_patches(shares, limit, np.random.default_rng((views.seed, i)))
                place = slice(filled, filled + len(chosen))
                features[place], labels[place] = rows[chosen], shares[chosen]
                filled = place.stop
            progress.update(first + len(tokens))
    parts = distributed.gather_objects((features[:filled], labels[:filled]))
    if len(parts) == 1:
        return PatchMemory(*parts[0])
    return PatchMemory(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _patches_of_each(views: MemoryViews) -> int | None:
    """The largest number of patches of one view."""
    if views.options.patches is None:
        return None
    each = views.options.patches // len(views)
    if not each:
        raise UserError(
            f"memory.patches is {views.options.patches}, but there are {len(views.source)} training images "
            f"in {views.options.passes} passes; expected at least {len(views)}, one patch for each"
        )
    return each


def share_in_batches(size: int) -> range:
    """This process's part of ``size`` images: consecutive whole batches; the last may be smaller."""
    batches = -(-size // BATCH)
    mine = testing_share(batches, rank=distributed.rank(), world=distributed.world_size())
    return range(mine.start * BATCH, min(mine.stop * BATCH, size))
