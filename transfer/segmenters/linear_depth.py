"""A linear depth probe: log depth from the frozen last stage of a dilated ResNet, and the scores of depth.

The layer is BatchNorm and a 1x1 convolution, as in linear segmentation. It acts before the bilinear resize,
which gives the same as after it. The scores are those that BYOL reports (arXiv 2006.07733, D.6).
"""

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msbreg.backbones.resnet import ResNet, normalize
from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.load import load_exactly
from msbreg.data.loading import stream
from msbreg.data.segmentation.depth_maps import DepthMaps
from msbreg.data.training_order import Key, endless_order, random_state, share_of_batch
from msbreg.data.transforms import resize
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss, Trainable
from transfer.segmenters.fcn import LinearHead
from transfer.segmenters.segmentation_config import DepthOptions
from transfer.segmenters.windows import central_window

NEAREST = 1e-3
"""Smallest predicted depth in meters."""
ROW_EVERY = 20
THRESHOLD = 1.25


# ---- Scores


@dataclass(frozen=True)
class DepthScores:
    """Totals over the scored pixels of all images.

    Attributes:
        by_image: (N, 6) for each image: pixels; those with max(d / d', d' / d) below 1.25, 1.25^2 and 1.25^3;
            sum of squared errors in square meters; sum of |d' - d| / d.
        totals: (6,) sums over the images.
    """

    by_image: np.ndarray  # float64

    @property
    def totals(self) -> np.ndarray:  # (6,)
        total: np.ndarray = self.by_image.sum(axis=0)
        return total

    @property
    def within(self) -> tuple[float, float, float]:
        """Percentage of the pixels whose ratio to the truth is below 1.25, 1.25^2 and 1.25^3."""
        first, second, third = (100 * self.totals[1:4] / self.totals[0]).tolist()
        return first, second, third

    @property
    def rms(self) -> float:
        """Root of the mean squared error in meters."""
        return math.sqrt(self.totals[4] / self.totals[0])

    @property
    def rel(self) -> float:
        """Mean of the errors, each divided by the true depth."""
        return float(self.totals[5] / self.totals[0])


def depth_totals(
    truth: np.ndarray,  # (H, W) meters; 0 is unknown
    predicted: np.ndarray,  # (H, W) meters, above 0
) -> np.ndarray:  # (6,) float64
    """The totals of one image (see ``DepthScores``); pixels of unknown depth are not counted.

    >>> depth_totals(np.array([[2.0, 4.0, 0.0]]), np.array([[1.0, 4.0, 9.0]])).round(2)
    array([2. , 1. , 1. , 1. , 1. , 0.5])
    """
    known = truth > 0
    d, found = truth[known].astype(np.float64), predicted[known].astype(np.float64)
    ratio = np.maximum(d / found, found / d)
    within = [np.count_nonzero(ratio < THRESHOLD**power) for power in (1, 2, 3)]
    error = np.abs(found - d)
    return np.array([len(d), *within, (error**2).sum(), (error / d).sum()], np.float64)


# ---- The network


class DepthProbe(nn.Module):
    """Log depth of each cell of c5; only the head is trained."""

    def __init__(self, backbone: ResNet, normalization: Normalization) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.normalization = normalization
        self.head = LinearHead(backbone.channels["c5"], 1)

    def forward(
        self,
        pixels: Tensor,  # (B, 3, H, W) uint8 RGB
    ) -> Tensor:  # (B, 1, H, W) log meters
        device = next(self.head.parameters()).device
        with torch.no_grad():
            features = self.backbone(normalize(pixels, device, self.normalization))["c5"]
        return F.interpolate(
            self.head(features), pixels.shape[-2:], mode="bilinear", align_corners=False
        )

    def train(self, mode: bool = True) -> "DepthProbe":
        """Switch the head; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self


@torch.no_grad()
def predicted_depth(
    network: DepthProbe,  # in eval mode
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    options: DepthOptions,
) -> np.ndarray:  # (H, W) float32, meters
    """The depth of the whole image at its own size, between 1 mm and ``options.farthest``."""
    pixels = torch.from_numpy(resize(image, *options.size, "bilinear")).permute(2, 0, 1)[None]
    logs = F.interpolate(network(pixels), image.shape[:2], mode="bilinear", align_corners=False)
    depth: np.ndarray = (
        logs[0, 0].clamp(math.log(NEAREST), math.log(options.farthest)).exp().cpu().numpy()
    )
    return depth


# ---- Training


@dataclass(frozen=True)
class DepthBatch:
    """Training images: pixels (B, 3, H, W) uint8 RGB, and depth (B, H, W) float32 in meters."""

    pixels: Tensor
    depth: Tensor


def training_sample(
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    depth: np.ndarray,  # (H, W) meters
    options: DepthOptions,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:  # of the size of the crop
    """The central crop of the resized image and of its depth, flipped with probability ``options.flip``."""
    small = resize(image, *options.size, "bilinear")
    nearest = cv2.resize(depth, options.size[::-1], interpolation=cv2.INTER_NEAREST)
    window = central_window(options.size, options.crop)
    small, nearest = small[window], nearest[window]
    if random.random_sample() < options.flip:
        small, nearest = small[:, ::-1], nearest[:, ::-1]
    return small, nearest


@dataclass(frozen=True)
class _Samples:
    """Makes training samples; a class, because it is pickled to spawned workers."""

    source: DepthMaps
    options: DepthOptions
    seed: int

    def __call__(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        position, index = key
        image, depth = self.source.image(index), self.source.depth(index)
        return training_sample(image, depth, self.options, random_state(self.seed, position))


def _collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> DepthBatch:
    pixels = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2)
    return DepthBatch(pixels, torch.from_numpy(np.stack([depth for _, depth in samples])))


def training_batches(
    source: DepthMaps, options: DepthOptions, *, seed: int, first: int, workers: int
) -> Generator[DepthBatch]:
    """This process's batches from iteration ``first`` on; functions of seed, process and iteration.

    Raises:
        UserError: the batch cannot be divided among the processes, or an image cannot be read.
    """
    rank, world = distributed.rank(), distributed.world_size()
    share = share_of_batch(options.batch_size, world, name="depth.batch_size")

    def keys() -> Iterator[list[Key]]:
        order = endless_order(len(source), seed, rank=rank, world=world)
        return islice(iter(lambda: list(islice(order, share)), []), first, None)

    batches = stream(_Samples(source, options, seed), keys, _collate, workers=workers)
    with closing(batches):
        yield from batches


class DepthTraining(Trainable):
    """The probe with its optimizer; the loss is the mean |log d' - log d| over the pixels of known depth."""

    model: DepthProbe
    advice = "Try a lower depth.learning_rate, in a new --output."
    memory = (
        "out of memory while training. A smaller depth.batch_size needs less, in a new --output."
    )

    def __init__(self, network: DepthProbe, options: DepthOptions) -> None:
        self.model, self.options = network, options
        self.optimizer = torch.optim.SGD(
            network.head.parameters(),
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        self.exchanges = distributed.world_size() > 1  # the number of known pixels; SyncBN

    def learning_rates(self, step: int) -> list[float]:
        left = 1 - step / self.options.iterations
        return [self.options.learning_rate * left**self.options.power]

    def losses(self, forward: nn.Module, batch: DepthBatch, step: int) -> Iterator[Loss]:
        logs = forward(batch.pixels)[:, 0]
        depth = batch.depth.to(logs.device)
        known = depth > 0
        # The mean over processes of these quotients is the mean over the pixels of all processes.
        pixels = distributed.total(known.sum().float()).clamp(min=1) / distributed.world_size()
        errors = (logs - depth.clamp(min=NEAREST).log()).abs()
        total = (errors * known).sum() / pixels
        yield Loss(total, {"loss": total.detach()})

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        return {"iteration": step, **means, "learning_rate": self.learning_rates(step - 1)[0]}

    def prepare_evaluation(self, step: int) -> None:
        distributed.share_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model.head, state["model"], "the depth probe")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"the optimizer state is from another network: {error}") from error


def scored_window(
    shape: tuple[int, ...], border: tuple[int, int, int, int] | None
) -> tuple[slice, slice]:
    """The part of an image to score.

    Args:
        border: first row, end row, first column, end column; None is everything.

    Raises:
        UserError: the image is smaller.
    """
    if border is None:
        return slice(None), slice(None)
    top, bottom, left, right = border
    if bottom > shape[0] or right > shape[1]:
        raise UserError(
            f"depth.scored is {list(border)}, but an image has {shape[0]} rows and {shape[1]} columns; "
            "expected a part of it, or null for whole images"
        )
    return slice(top, bottom), slice(left, right)
