"""Batches of augmented views. The batches do not depend on the number of workers."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from msbreg.data.decoding import ImageIOError, UnreadableImage
from msbreg.data.images import LabeledImages
from msbreg.data.loading import stream
from msbreg.data.transforms import image_generator
from msbreg.run.errors import UserError
from pretrain.views import Augmentation, make_views


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


class _Views:
    """(epoch, image) -> (K, 3, S, S) uint8 views. Pickled to send it to worker processes."""

    def __init__(
        self, images: LabeledImages, policy: tuple[Augmentation, ...], views: int, seed: int
    ) -> None:
        self.images, self.policy, self.views, self.seed = images, policy, views, seed

    def __call__(self, key: tuple[int, int]) -> Tensor:
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
        generator = image_generator(self.seed, epoch, index)
        return torch.from_numpy(make_views(image, self.policy, self.views, generator))


def _stack(
    views: list[Tensor],  # B of (K, 3, S, S)
) -> Tensor:  # (K, B, 3, S, S)
    return torch.stack(views, dim=1)


def _one_thread() -> None:
    cv2.setNumThreads(0)


def batches_of_views(
    images: LabeledImages,
    policy: tuple[Augmentation, ...],
    views: int,
    order: Order,
    *,
    first_step: int,
    workers: int,
    device: torch.device,
) -> Generator[Tensor]:  # each (K, B, 3, S, S) uint8
    """Yield the views for each step, from ``first_step`` to the end of the run.

    Args:
        views: number of views per image.

    Raises:
        UserError: a file is not an image; the message names it.
        ImageIOError: a file cannot be read.
        RunFailed: a worker process cannot be started, or was killed.
    """
    return stream(
        _Views(images, policy, views, order.seed),
        lambda: order.batches(first_step),
        _stack,
        workers=workers,
        on_start=_one_thread,
        pin_memory=device.type == "cuda",
        ahead=4,
    )


def fixed_views(
    images: LabeledImages,
    policy: tuple[Augmentation, ...],
    *,
    count: int,
    seed: int,
) -> Tensor:  # (2, count, 3, S, S) uint8
    """Two views of each of ``count`` images, spaced evenly over the list; equal for equal arguments."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    pairs = [
        make_views(images.image(int(i)), policy, 2, image_generator(seed, 0, int(i)))
        for i in chosen
    ]
    return torch.from_numpy(np.stack(pairs, axis=1))
