"""Batches of augmented views. The batches do not depend on the number of workers."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from msbreg.data.decoding import ImageIOError, UnreadableImage
from msbreg.data.images import LabeledImages
from msbreg.data.loading import stream
from msbreg.data.transforms import image_generator
from msbreg.run.errors import UserError
from pretrain.device_views import crop_views, finish_views
from pretrain.views import Augmentation, make_views


class ViewBatch(NamedTuple):
    """The views of one step; this process's images.

    Attributes:
        views: K of (B, 3, S, S) uint8, then the local views (multi-crop), which are smaller, then the
            independent views of the target network, if it has its own.
        images: (B,) positions of the images in the data set.
    """

    views: Sequence[Tensor]
    images: Tensor


@dataclass(frozen=True)
class Recipe:
    """How the views of an image are made.

    Attributes:
        policy: the distributions of the views; view j uses ``policy[j % len(policy)]``.
        views: number K of views.
        local_policy: the distributions of the local views.
        local_views: number of local views.
        independent: whether to add another K views for the target network.
        finish: ``worker`` makes the views where images are decoded; ``device`` only crops there and does
            the rest on the device (``pretrain/device_views.py``).
    """

    policy: tuple[Augmentation, ...]
    views: int
    local_policy: tuple[Augmentation, ...] = ()
    local_views: int = 0
    independent: bool = False
    finish: Literal["worker", "device"] = "worker"


@dataclass(frozen=True)
class Order:
    """The images of each step: a new permutation every epoch, determined by the seed alone.

    Each process takes a consecutive part of the batch, so the batches gathered from all processes are those
    of a single process. The last, incomplete batch of an epoch is dropped.

    Attributes:
        images: number of images.
        batch: size of the global batch.
        epochs: number of passes over the images.
        seed: seed of the permutations.
        world: number of processes.
        rank: index of this process.
    """

    images: int
    batch: int
    epochs: int
    seed: int
    world: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.batch > self.images:
            raise UserError(
                f"batch_size is {self.batch}, but there are only {self.images} images; "
                f"expected at most {self.images}"
            )
        if self.batch % self.world or self.batch < 2 * self.world:
            raise UserError(
                f"batch_size is {self.batch} in total, which cannot be split over {self.world} "
                f"processes; expected a multiple of {self.world}, and at least 2 images per process"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def batches(self, first_step: int) -> Iterator[list[tuple[int, int]]]:
        """Yield this process's part of each batch as (epoch, image) pairs, starting at ``first_step``."""
        share = self.batch // self.world
        permuted_epoch, permutation = -1, np.empty(0, dtype=int)
        for step in range(first_step, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != permuted_epoch:
                permuted_epoch = epoch
                permutation = np.random.default_rng([self.seed, epoch]).permutation(self.images)
            first = position * self.batch + self.rank * share
            yield [(epoch, int(i)) for i in permutation[first : first + share]]


class _Item(NamedTuple):
    """One image: the K or 2K views (., 3, S, S), the local views (V, 3, T, T), and its position.

    Views to be finished on the device come with their parameters, (., P) each.
    """

    views: Tensor
    local: Tensor
    image: int
    choices: Tensor
    local_choices: Tensor


class _Views:
    """(epoch, image) -> its views. Pickled to send it to worker processes."""

    def __init__(self, images: LabeledImages, recipe: Recipe, seed: int) -> None:
        self.images, self.recipe, self.seed = images, recipe, seed

    def __call__(self, key: tuple[int, int]) -> _Item:
        epoch, index = key
        try:
            image = self.images.image(index)
        except UnreadableImage as error:
            raise UnreadableImage(
                f"{error}.\n"
                "Fix or remove the file and run the same command to continue, or skip such files with "
                "--skip-unreadable in a new --output."
            ) from error
        except ImageIOError as error:
            raise ImageIOError(
                f"{error}.\nMake the file readable, then run the same command to continue."
            ) from error
        recipe, generator = self.recipe, image_generator(self.seed, epoch, index)
        count = recipe.views * (2 if recipe.independent else 1)
        views, choices = self._make(image, recipe.policy, count, generator)
        local, local_choices = views[:0], choices[:0]
        if recipe.local_views:
            local, local_choices = self._make(
                image, recipe.local_policy, recipe.local_views, generator
            )
        return _Item(views, local, index, choices, local_choices)

    def _make(
        self,
        image: np.ndarray,
        policy: tuple[Augmentation, ...],
        count: int,
        generator: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        if self.recipe.finish == "device":
            crops, choices = crop_views(image, policy, count, generator)
            return torch.from_numpy(crops), torch.from_numpy(choices)
        views = torch.from_numpy(make_views(image, policy, count, generator))
        return views, torch.empty(count, 0)


class _Stacked(NamedTuple):
    """A batch as it leaves a worker: views in the order of ``ViewBatch``, and what finishes them."""

    views: list[Tensor]  # of (B, 3, S, S)
    choices: list[Tensor]  # of (B, P)
    images: Tensor  # (B,)


@dataclass(frozen=True)
class _Stack:
    """Items of ``_Views`` -> a batch."""

    views: int

    def __call__(self, items: list[_Item]) -> _Stacked:
        large, local, positions, choices, local_choices = zip(*items, strict=True)
        return _Stacked(
            self._ordered(large, local),
            self._ordered(choices, local_choices),
            torch.tensor(positions),
        )

    def _ordered(self, large: Sequence[Tensor], local: Sequence[Tensor]) -> list[Tensor]:
        views = torch.stack(list(large), dim=1).unbind(0)
        small = torch.stack(list(local), dim=1).unbind(0)
        return [*views[: self.views], *small, *views[self.views :]]


def _one_thread() -> None:
    cv2.setNumThreads(0)


def batches_of_views(
    images: LabeledImages,
    recipe: Recipe,
    order: Order,
    *,
    first_step: int,
    workers: int,
    device: torch.device,
) -> Generator[ViewBatch]:
    """Yield the views for each step, from ``first_step`` to the end of the run.

    Raises:
        UserError: a file is not an image; the message names it.
        ImageIOError: a file cannot be read.
        RunFailed: a worker process cannot be started, or was killed.
    """
    stacked = stream(
        _Views(images, recipe, order.seed),
        lambda: order.batches(first_step),
        _Stack(recipe.views),
        workers=workers,
        on_start=_one_thread,
        pin_memory=device.type == "cuda",
        ahead=4,
    )
    with contextlib.closing(stacked):
        for views, choices, positions in stacked:
            finished = finish_views(views, choices, device) if recipe.finish == "device" else views
            yield ViewBatch(finished, positions)


def fixed_views(
    images: LabeledImages,
    policy: tuple[Augmentation, ...],
    *,
    count: int,
    seed: int,
    views: int = 2,
) -> Tensor:  # (views, count, 3, S, S) uint8
    """Some views of each of ``count`` images, spaced evenly over the list; equal for equal arguments."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    pairs = [
        make_views(images.image(int(i)), policy, views, image_generator(seed, 0, int(i)))
        for i in chosen
    ]
    return torch.from_numpy(np.stack(pairs, axis=1))
