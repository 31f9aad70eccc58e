"""Processes that decode images: what they are sent, what comes back, and what if one is lost."""

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from msbreg.data.scenes import Scene
from msbreg.data.worker_processes import from_workers, start_worker
from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from transfer.detectors.mapper import Sample
from transfer.detectors.sample_order import Key


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


class Samples(Dataset[Sample | UserError]):
    """Key -> sample, or the error of a scene that cannot be read. ``make`` is sent by pickle.

    Errors travel as values: a worker's exception would reach the user as a traceback.
    """

    def __init__(self, scenes: Sequence[Scene], make: Callable[[Scene, int], Sample]) -> None:
        self.scenes, self.make = PackedScenes(scenes), make

    def __getitem__(self, key: Key) -> Sample | UserError:
        position, index = key
        try:
            return self.make(self.scenes[index], position)
        except UserError as error:
            return UserError(
                f"{error}.\nMend or replace the file, then give the same command again."
            )


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


def _pack(samples: list[Sample | UserError]) -> _Parcel | UserError:
    """The batch, or the first error."""
    read: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
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
    start_worker()


def decoded(
    samples: Samples,
    keys: Callable[[], Iterator[list[Key]]],
    workers: int,
    device: torch.device | None,
) -> Generator[list[Sample]]:
    """Batches of samples in the order of the keys; to be closed (``contextlib.closing``).

    Args:
        workers: processes that decode; 0 decodes here.
        device: on which processes agree that one of them failed; None leaves it to the caller.

    Raises:
        UserError: an image cannot be read.
        RunFailed: a worker was lost.
    """
    loader = DataLoader(
        samples,
        batch_sampler=_Keys(keys),
        num_workers=workers,
        collate_fn=_pack,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws its workers' seeds from the global one
    )
    with closing(_parcels(loader)) as parcels:
        for parcel in parcels:
            error = None if isinstance(parcel, _Parcel) else parcel
            # All processes must learn of it, or the others would wait for this one for ever.
            if device is not None and distributed.any_process(error is not None, device):
                error = next(filter(None, distributed.gather_objects(error)))
            if error is not None:
                raise error
            assert isinstance(parcel, _Parcel)
            yield _unpack(parcel)


def _parcels(loader: DataLoader[Sample | UserError]) -> Generator[_Parcel | UserError | RunFailed]:
    """What the loader gives; an error, too, if one of its workers is no more."""
    try:
        yield from from_workers(loader)
    except (EOFError, ConnectionError, RuntimeError) as error:
        message = lost_worker(error)
        if message is None:
            raise
        yield RunFailed(message)


def lost_worker(error: Exception) -> str | None:
    """What to do if the error is that a worker process is no more; else None.

    Which error tells of it depends on what the worker was doing. PyTorch raises its RuntimeError in the
    handler of a signal, wherever the program is.
    """
    # "... in DataLoader worker process 0" is another: an error that happened in a living worker.
    if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
        return None
    return (
        f"a process that decodes images was ended from outside ({type(error).__name__}: {error}).\n"
        "The usual cause is that memory ran out, in all or in /dev/shm. Give the same command again, "
        "with\nfewer --workers, or 0 to decode in the process that trains."
    )
