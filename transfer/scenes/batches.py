"""Batches of decoded samples, the same ones whatever the number of workers and wherever resumed."""

import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from msbreg import distributed
from msbreg.errors import UserError
from transfer.scenes.mapper import (
    MapperSettings,
    mask_problem,
    random_state,
    testing_sample,
    training_sample,
)
from transfer.scenes.order import Key, share_of_batch, testing_share, training_keys
from transfer.scenes.sample import Sample
from transfer.scenes.types import Instance, Scene, Scenes


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
    device: torch.device,
    group: bool = True,
) -> Iterator[list[Sample]]:
    """This process's batches of iterations ``first``, first + 1, ..., for ever.

    Order and pixels are functions of seed, process and iteration: nothing else needs to be saved to
    continue. PyTorch's global generator is not touched.

    Args:
        scenes: to train on, filtered where that is wanted (``named.without_empty``).
        batch: scenes of all processes together (SOLVER.IMS_PER_BATCH).
        seed: 0 or more; the same in all processes.
        rank, world: number of this process, and of all.
        workers: processes that decode; 0 decodes here.
        device: on which processes agree that one of them met an image that cannot be read.
        group: whether wide and high images come in batches of their own
            (DATALOADER.ASPECT_RATIO_GROUPING).

    Raises:
        UserError: at once, if the batch cannot be shared or masks are not as the settings want them;
            later, naming the file, if an image cannot be read. In all processes.
    """
    _check_masks(scenes, settings)
    share = share_of_batch(batch, world)
    wide = [scene.width > scene.height for scene in scenes.scenes]
    shapes: Sequence[bool] | int = wide if group else len(wide)

    def keys() -> Iterator[list[Key]]:
        return training_keys(shapes, share, seed, rank=rank, world=world, first=first)

    sized = bool(scenes.category_ids)

    def make(scene: Scene, position: int) -> Sample:
        random = random_state(seed, position)
        return training_sample(scene, settings, random, sized_boxes=sized)

    return _decoded(_Samples(scenes.scenes, make), keys, workers, device)


def testing_batches(
    scenes: Scenes,
    settings: MapperSettings,
    *,
    rank: int,
    world: int,
    workers: int,
) -> Iterator[list[Sample]]:
    """This process's share of the scenes, in order, one a batch.

    Raises:
        UserError: an image cannot be read; the message names it. In this process alone, as the
            shares of processes differ in length.
    """

    def keys() -> Iterator[list[Key]]:
        share = testing_share(len(scenes.scenes), rank=rank, world=world)
        return ([(index, index)] for index in share)

    def make(scene: Scene, position: int) -> Sample:
        return testing_sample(scene, settings)

    return _decoded(_Samples(scenes.scenes, make), keys, workers, None)


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


class _Samples(Dataset[Sample | str]):
    """Key -> sample, or the message of a scene that cannot be read.

    Errors travel as values: a worker's exception would reach the user as a traceback.
    """

    def __init__(self, scenes: Sequence[Scene], make: Callable[[Scene, int], Sample]) -> None:
        self.scenes, self.make = PackedScenes(scenes), make

    def __getitem__(self, key: Key) -> Sample | str:
        position, index = key
        try:
            return self.make(self.scenes[index], position)
        except UserError as error:
            return str(error)


class _Keys(Sampler[list[Key]]):
    def __init__(self, keys: Callable[[], Iterator[list[Key]]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Key]]:
        return self.keys()


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


_NOTHING = torch.empty(0, dtype=torch.uint8)


def _pack(samples: list[Sample | str]) -> _Parcel | str:
    """The batch, or the first message."""
    read: list[Sample] = []
    for sample in samples:
        if isinstance(sample, str):
            return sample
        read.append(sample)
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


def _start_worker(_: int) -> None:
    # torchrun and terminals signal the whole group; the loop decides when to stop, and saves first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)  # the workers are the parallelism


def _decoded(
    samples: _Samples,
    keys: Callable[[], Iterator[list[Key]]],
    workers: int,
    device: torch.device | None,
) -> Iterator[list[Sample]]:
    loader = DataLoader(
        samples,
        batch_sampler=_Keys(keys),
        num_workers=workers,
        collate_fn=_pack,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws its workers' seeds from the global one
    )
    for parcel in loader:
        failed = isinstance(parcel, str)
        message = parcel if isinstance(parcel, str) else ""
        # All processes must learn of it, or the others would wait for this one for ever.
        if device is not None and distributed.any_process(failed, device):
            message = next(filter(None, distributed.gather_objects(message)))
        if message:
            raise UserError(
                f"{message}.\nMend or replace the file, then give the same command again."
            )
        yield _unpack(parcel)


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
