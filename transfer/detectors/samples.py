"""Batches of decoded samples: which scenes make each batch, and the worker processes that decode them.

The order is a function of the seed, the process and the iteration: TrainingSampler and
InferenceSampler of detectron2/data/samplers, AspectRatioGroupedDataset of detectron2/data/common.py.
Without worker processes the batches are Detectron2's; with them, its order depends on their number
and ours does not.
"""

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from msbreg.data.loading import stream
from msbreg.data.scenes import Instance, Scene, Scenes
from msbreg.run.errors import UserError
from transfer.detectors.mapper import (
    MapperSettings,
    Sample,
    mask_problem,
    random_state,
    testing_sample,
    training_sample,
)

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


# ---- Scenes to decoded samples in worker processes: what is sent to them, and what comes ba


class PackedScenes:
    """Scenes as one block of bytes.

    A worker that reads Python objects copies the memory pages that hold them, for it counts its
    references in them: all of COCO's polygons, once for each worker. Bytes stay shared.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        parts = [pickle.dumps(scene, protocol=pickle.HIGHEST_PROTOCOL) for scene in scenes]
        self.ends = np.cumsum([len(part) for part in parts])
        self.content = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Scene:
        begin = self.ends[index - 1] if index else 0
        return pickle.loads(self.content[begin : self.ends[index]].data)


class Samples:
    """Key -> sample; ``make`` and the scenes are sent to worker processes by pickle."""

    def __init__(self, scenes: Sequence[Scene], make: Callable[[Scene, int], Sample]) -> None:
        self.scenes, self.make = PackedScenes(scenes), make

    def __call__(self, key: Key) -> Sample:
        position, index = key
        try:
            return self.make(self.scenes[index], position)
        except UserError as error:
            raise UserError(
                f"{error}.\nFix or replace the file, then give the same command again."
            ) from error


@dataclass(frozen=True)
class _Parcel:
    """A batch on its way from a worker: its pixels in one tensor, which takes one file descriptor.

    A tensor of each image, its boxes and its labels would take 48 for a batch of 16, and the usual
    limit of 1024 would be met by eight workers. What is small goes as arrays, by value.
    """

    pixels: Tensor
    shapes: tuple[torch.Size, ...]
    boxes: tuple[np.ndarray | None, ...]
    labels: tuple[np.ndarray | None, ...]
    rest: tuple[Sample, ...]


_NOTHING = torch.empty(0, dtype=torch.uint8)  # in place of pixels that travel in the parcel


def _pack(read: list[Sample]) -> _Parcel:
    return _Parcel(
        torch.cat([sample.image.flatten() for sample in read]),
        tuple(sample.image.shape for sample in read),
        tuple(None if s.boxes is None else s.boxes.numpy() for s in read),
        tuple(None if s.labels is None else s.labels.numpy() for s in read),
        tuple(replace(s, image=_NOTHING, boxes=None, labels=None) for s in read),
    )


def _unpack(parcel: _Parcel) -> list[Sample]:
    images = parcel.pixels.split([shape.numel() for shape in parcel.shapes])
    return [
        replace(
            sample,
            image=image.view(shape),
            boxes=None if boxes is None else torch.from_numpy(boxes),
            labels=None if labels is None else torch.from_numpy(labels),
        )
        for sample, image, shape, boxes, labels in zip(
            parcel.rest, images, parcel.shapes, parcel.boxes, parcel.labels, strict=True
        )
    ]


def decoded(
    samples: Samples, keys: Callable[[], Iterator[list[Key]]], workers: int
) -> Generator[list[Sample]]:
    """Batches of samples in the order of the keys; to be closed (``contextlib.closing``).

    Args:
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UserError: an image cannot be read.
        RunFailed: a worker was lost.
    """
    with closing(stream(samples, keys, _pack, workers=workers)) as parcels:
        for parcel in parcels:
            yield _unpack(parcel)


# ---- Batches of decoded samples, the same ones whatever the number of workers and wherever


def training_batches(
    scenes: Scenes,
    settings: MapperSettings,
    *,
    batch: int,
    seed: int,
    first: int,
    rank: int,
    world: int,
    workers: int,
    group: bool = True,
) -> Generator[list[Sample]]:
    """This process's batches of iterations ``first``, first + 1, ..., until it is closed.

    Order and pixels are functions of seed, process and iteration: nothing else needs to be saved to
    continue. PyTorch's global generator is not touched.

    Args:
        scenes: to train on, already filtered (``catalog.without_empty``).
        batch: scenes of all processes together (SOLVER.IMS_PER_BATCH).
        seed: 0 or more; the same in all processes.
        rank, world: number of this process, and of all.
        workers: processes that decode; 0 decodes here.
        group: whether wide and high images come in batches of their own
            (DATALOADER.ASPECT_RATIO_GROUPING).

    Raises:
        UserError: at once, if the batch cannot be shared or masks are not as the settings want them;
            later, naming the file, if an image cannot be read.
    """
    _check_masks(scenes, settings)
    share = share_of_batch(batch, world)
    wide = [scene.width > scene.height for scene in scenes.scenes]
    shapes: Sequence[bool] | int = wide if group else len(wide)

    def keys() -> Iterator[list[Key]]:
        return training_keys(shapes, share, seed, rank=rank, world=world, first=first)

    make = _Training(settings, seed, sized=scenes.sized_boxes)
    return decoded(Samples(scenes.scenes, make), keys, workers)


def testing_batches(
    scenes: Scenes,
    settings: MapperSettings,
    *,
    rank: int,
    world: int,
    workers: int,
) -> Generator[list[Sample]]:
    """This process's share of the scenes, in order, one per batch; the caller closes it.

    Raises:
        UserError: an image cannot be read; the message names it. In this process alone, as the
            shares of processes differ in length.
    """

    def keys() -> Iterator[list[Key]]:
        share = testing_share(len(scenes.scenes), rank=rank, world=world)
        return ([(index, index)] for index in share)

    return decoded(Samples(scenes.scenes, _Testing(settings)), keys, workers)


@dataclass(frozen=True)
class _Training:
    """Makes samples to train on; a class, because spawned workers receive it by pickle."""

    settings: MapperSettings
    seed: int
    sized: bool

    def __call__(self, scene: Scene, position: int) -> Sample:
        random = random_state(self.seed, position)
        return training_sample(scene, self.settings, random, sized_boxes=self.sized)


@dataclass(frozen=True)
class _Testing:
    """Makes samples to test on."""

    settings: MapperSettings

    def __call__(self, scene: Scene, position: int) -> Sample:
        return testing_sample(scene, self.settings)


def _check_masks(scenes: Scenes, settings: MapperSettings) -> None:
    """Every object that is trained on has a mask in a form that the settings can use.

    Raises:
        UserError: one has not; its image is named.
    """

    def unusable(instance: Instance) -> bool:
        if settings.masks is None or instance.crowd:
            return False
        return instance.mask is None or (
            settings.masks == "polygon" and isinstance(instance.mask, dict)
        )

    for scene in scenes.scenes:
        if any(map(unusable, scene.instances)):
            raise UserError(f"{scenes.name}: {mask_problem(scene, settings.masks or '')}")
