"""Batches of decoded samples: the order of the scenes, and the worker processes that decode them.

The order is a function of seed, process and iteration: that of TrainingSampler and InferenceSampler in
detectron2/data/samplers and AspectRatioGroupedDataset in detectron2/data/common.py (or
RepeatFactorTrainingSampler, see repeat_factors.py). Without worker
processes the batches equal Detectron2's. With them, Detectron2's order depends on the number of workers;
ours does not.
"""

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from msbreg.data.loading import stream
from msbreg.data.scenes import Instance, Scene, Scenes
from msbreg.data.training_order import (
    Key,
    endless_order,
    random_state,
    share_of_batch,
    testing_share,
)
from msbreg.run.errors import UserError
from transfer.detectors.mapper import (
    MapperSettings,
    Sample,
    keypoint_problem,
    mask_problem,
    testing_sample,
    training_sample,
)
from transfer.detectors.repeat_factors import shuffled

BATCH_SIZE = "SOLVER.IMS_PER_BATCH"


def grouped(order: Iterator[Key], wide: Sequence[bool], batch: int) -> Iterator[list[Key]]:
    """Batches of wide scenes only or of the others only, each as soon as it is full."""
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
    repeats: Tensor | None = None,
) -> Iterator[list[Key]]:
    """An endless iterator over the batches of one process, from iteration ``first`` on.

    The order is replayed from its beginning without reading images, which takes a second per million
    samples.

    Args:
        wide: for grouping, whether each scene is wider than high; without grouping, the number of scenes.
        batch: batch size of this process.
        repeats: how often each scene occurs in a shuffle (``repeat_factors``); None: once.
    """
    size = wide if isinstance(wide, int) else len(wide)
    shuffle = None if repeats is None else partial(shuffled, repeats)
    order = endless_order(size, seed, rank=rank, world=world, shuffle=shuffle)
    if isinstance(wide, int):
        batches = iter(lambda: list(islice(order, batch)), [])
    else:
        batches = grouped(order, wide, batch)
    return islice(batches, first, None)


# ---- Decoding in worker processes: what is sent to them and what they return


class PackedScenes:
    """Scenes pickled into one array of bytes.

    A forked worker that reads Python objects changes their reference counts and so copies their memory
    pages: all of COCO's polygons, once per worker. The array stays shared.
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
    """Maps a key to its sample; pickled to worker processes with ``make`` and the scenes."""

    def __init__(self, scenes: Sequence[Scene], make: Callable[[Scene, int], Sample]) -> None:
        self.scenes, self.make = PackedScenes(scenes), make

    def __call__(self, key: Key) -> Sample:
        position, index = key
        try:
            return self.make(self.scenes[index], position)
        except UserError as error:
            raise UserError(
                f"{error}.\nFix or replace the file, then run the same command again."
            ) from error


@dataclass(frozen=True)
class _Parcel:
    """A batch on its way from a worker: all pixels in one tensor, which takes one file descriptor.

    Separate tensors for images, boxes and labels would take 48 for a batch of 16; eight workers would
    reach the usual limit of 1024. Boxes and labels are small and are sent by value, as arrays.
    """

    pixels: Tensor
    shapes: tuple[torch.Size, ...]
    boxes: tuple[np.ndarray | None, ...]
    labels: tuple[np.ndarray | None, ...]
    rest: tuple[Sample, ...]


_NOTHING = torch.empty(0, dtype=torch.uint8)  # replaces the pixels, which are in the parcel


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
    """Batches of samples in the order of the keys; the caller closes it (``contextlib.closing``).

    Args:
        workers: number of decoding processes; 0 decodes in this process.

    Raises:
        UserError: an image cannot be read.
        RunFailed: a worker process died.
    """
    with closing(stream(samples, keys, _pack, workers=workers)) as parcels:
        for parcel in parcels:
            yield _unpack(parcel)


# ---- Batches, the same for any number of workers and after any interruption


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
    repeats: Tensor | None = None,
) -> Generator[list[Sample]]:
    """This process's batches from iteration ``first`` on, until the generator is closed.

    Order and pixels are functions of seed, process and iteration, so that a checkpoint needs no other
    state to continue. PyTorch's global generator is not used.

    Args:
        scenes: training scenes, already filtered (``catalog.without_empty``).
        batch: batch size over all processes (SOLVER.IMS_PER_BATCH).
        seed: 0 or more; the same in all processes.
        rank, world: index of this process, and number of processes.
        workers: number of decoding processes; 0 decodes in this process.
        group: whether batches contain either wide or tall images only
            (DATALOADER.ASPECT_RATIO_GROUPING).
        repeats: how often each scene occurs in a shuffle (``repeat_factors``); None: once.

    Raises:
        UserError: when called, if the batch cannot be divided among the processes, keypoints are missing, or
            a mask is missing or in another format; while iterating, if an image cannot be read (the message
            names the file).
    """
    _check_masks(scenes, settings)
    if settings.keypoints:
        _check_keypoints(scenes)
        mirror = () if scenes.keypoints is None else scenes.keypoints.mirror
        settings = replace(settings, mirror=mirror)
    share = share_of_batch(batch, world, name=BATCH_SIZE)
    wide = [scene.width > scene.height for scene in scenes.scenes]
    shapes: Sequence[bool] | int = wide if group else len(wide)

    def keys() -> Iterator[list[Key]]:
        return training_keys(
            shapes, share, seed, rank=rank, world=world, first=first, repeats=repeats
        )

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
    """This process's share of the scenes, in order, one per batch; the caller closes the generator.

    Raises:
        UserError: an image cannot be read (the message names it). Raised in this process only, since the
            shares differ in length.
    """

    def keys() -> Iterator[list[Key]]:
        share = testing_share(len(scenes.scenes), rank=rank, world=world)
        return ([(index, index)] for index in share)

    return decoded(Samples(scenes.scenes, _Testing(settings)), keys, workers)


@dataclass(frozen=True)
class _Training:
    """Makes training samples; a class, because it is pickled to spawned workers."""

    settings: MapperSettings
    seed: int
    sized: bool

    def __call__(self, scene: Scene, position: int) -> Sample:
        random = random_state(self.seed, position)
        return training_sample(scene, self.settings, random, sized_boxes=self.sized)


@dataclass(frozen=True)
class _Testing:
    """Makes test samples."""

    settings: MapperSettings

    def __call__(self, scene: Scene, position: int) -> Sample:
        return testing_sample(scene, self.settings)


def _check_masks(scenes: Scenes, settings: MapperSettings) -> None:
    """Check that every training object has a mask in a format that the settings support.

    Raises:
        UserError: one does not; the message names its image.
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


def _check_keypoints(scenes: Scenes) -> None:
    """Check that every training object has keypoints.

    Raises:
        UserError: one does not; the message names its image.
    """
    for scene in scenes.scenes:
        if any(i.keypoints is None and not i.crowd for i in scene.instances):
            raise UserError(f"{scenes.name}: {keypoint_problem(scene)}")
