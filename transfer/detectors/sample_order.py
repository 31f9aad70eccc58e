"""Which scenes make each batch: a function of the seed, the process and the iteration, nothing else.

TrainingSampler and InferenceSampler of detectron2/data/samplers and AspectRatioGroupedDataset of
detectron2/data/common.py. Without worker processes the batches are Detectron2's; with them, its order
depends on their number, and this one does not.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from msbreg.run.errors import UserError

Key = tuple[int, int]
"""(position in the stream of all processes, index of the scene)."""


def endless_order(size: int, seed: int, *, rank: int, world: int) -> Iterator[Key]:
    """One shuffle of ``size`` indices after the other; process ``rank`` has every world-th of them."""

    def shuffles() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from torch.randperm(size, generator=generator).tolist()

    return islice(enumerate(shuffles()), rank, None, world)


def grouped(order: Iterator[Key], wide: Sequence[bool], batch: int) -> Iterator[list[Key]]:
    """Batches of wide scenes and batches of others, each as soon as it is full."""
    groups: dict[bool, list[Key]] = {False: [], True: []}
    for key in order:
        group = groups[wide[key[1]]]
        group.append(key)
        if len(group) == batch:
            yield list(group)
            group.clear()


def training_keys(
    wide: Sequence[bool] | int,
    batch: int,
    seed: int,
    *,
    rank: int,
    world: int,
    first: int = 0,
) -> Iterator[list[Key]]:
    """The batches of one process from iteration ``first`` on, for ever.

    The order is followed from its beginning, without reading an image: a second for a million
    samples.

    Args:
        wide: whether each scene is wider than high, to group by; or just the number of scenes.
        batch: scenes of this process's batch.
    """
    if isinstance(wide, int):
        order = endless_order(wide, seed, rank=rank, world=world)
        batches = iter(lambda: list(islice(order, batch)), [])
    else:
        order = endless_order(len(wide), seed, rank=rank, world=world)
        batches = grouped(order, wide, batch)
    return islice(batches, first, None)


def share_of_batch(total: int, world: int) -> int:
    """The scenes of one process's batch.

    Raises:
        UserError: the processes cannot share them equally.
    """
    if total < 1 or total % world:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {total} for {world} processes; expected a multiple of {world}, "
            "and 1 or more"
        )
    return total // world


def testing_share(size: int, *, rank: int, world: int) -> range:
    """The scenes of one process, in order; the first processes have one more if they must."""
    least, left = divmod(size, world)
    begin = rank * least + min(rank, left)
    return range(begin, begin + least + (rank < left))
