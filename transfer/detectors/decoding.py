"""Scenes to decoded samples in worker processes: what is sent to them, and what comes back."""

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from msbreg.data.loading import stream
from msbreg.data.scenes import Scene
from msbreg.run.errors import UserError
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
