"""Which images each process and step takes: the same for any number of workers and after any interruption."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch

from msbreg.run.errors import UserError

Key = tuple[int, int]
"""(position in the stream of all processes, index of the scene)."""


def endless_order(
    size: int,
    seed: int,
    *,
    rank: int,
    world: int,
    shuffle: Callable[[torch.Generator], torch.Tensor] | None = None,
) -> Iterator[Key]:
    """Endless shuffles of ``size`` indices; process ``rank`` gets every ``world``-th index.

    Args:
        shuffle: draws the indices of one shuffle, (M,); None: each occurs once.
    """

    def shuffles() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            if shuffle is None:
                yield from torch.randperm(size, generator=generator).tolist()
            else:
                yield from shuffle(generator).tolist()

    return islice(enumerate(shuffles()), rank, None, world)


def share_of_batch(total: int, world: int, *, name: str) -> int:
    """Batch size of one process.

    Args:
        name: of the setting that gives the total, for the message.

    Raises:
        UserError: the total is not a multiple of the number of processes.
    """
    if total < 1 or total % world:
        raise UserError(
            f"{name} is {total} with {world} processes; expected a positive multiple of {world}"
        )
    return total // world


def part_of(images: int, parts: int) -> int:
    """Number of images in each part of a process's batch.

    Raises:
        UserError: the number of images is not a multiple of the number of parts.
    """
    if images % parts:
        divisors = [str(n) for n in range(1, images + 1) if images % n == 0]
        raise UserError(
            f"--accumulate {parts} does not divide the {images} images of each process; "
            f"expected one of: {', '.join(divisors)}"
        )
    return images // parts


def testing_share(size: int, *, rank: int, world: int) -> range:
    """The scenes of one process, in order; the first processes take one more if the split is uneven."""
    least, left = divmod(size, world)
    begin = rank * least + min(rank, left)
    return range(begin, begin + least + (rank < left))


def random_state(seed: int, position: int) -> np.random.RandomState:
    """The random generator of one sample, independent of the process that makes it and of the time.

    Args:
        position: position of the sample in the stream of all processes.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, position))))
