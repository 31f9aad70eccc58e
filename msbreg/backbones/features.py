"""``extract_features``: compute features with a frozen backbone, for the protocols and your own analysis."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.spec import BackboneSpec, Provenance
from msbreg.data.sources import ImageSource, as_source
from msbreg.data.transforms import EvaluationTransform, default_transform
from msbreg.run import distributed
from msbreg.run.distributed import pick_device
from msbreg.run.failures import Agreement
from msbreg.run.progress import Progress


def extract_features(
    backbone: Backbone,
    spec: BackboneSpec | Provenance,
    images: str | Path | Sequence[str | Path] | ImageSource,
    *,
    transform: EvaluationTransform | None = None,
    representation: str | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 64,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:  # (N, D) float32
    """The feature of each image: for a ResNet, the global average pool of the last stage; for a vision
    transformer, the class token after the final norm.

    Row i contains the features of image i of the list or source. For a folder, images are in the order of
    ``msbreg.data.folder.list_images(folder).paths``.

    Args:
        spec: spec of the backbone; its normalization, channel order and image size are applied.
        images: a folder (with or without one subfolder per class), a list of files, or a source.
        transform: None uses the default of the network: resize the short side to 256, crop the center 224;
            for networks trained on at most 64 pixels, the center square at their training size.
        representation: name of the feature, one of ``backbone.representations``; None is the first of them.
        device: auto, cpu, cuda, cuda:N or a ``torch.device``.
        batch_size: images per forward pass.
        threads: number of threads that decode images, one batch ahead of the network.
        progress: called with (done, total) after each batch.

    Raises:
        UserError: the folder has no images, the list is empty, a file is not an image, or the network does
            not take images of the transform's size.
        ImageIOError: a file cannot be read.

    Example::

        import msbreg

        backbone, spec = msbreg.load_backbone("checkpoint.pth")
        features = msbreg.extract_features(backbone, spec, "photographs/")

    >>> from msbreg import random_backbone
    >>> backbone, spec = random_backbone("resnet18-tiny", seed=0, image_size=32)
    >>> class Gray:
    ...     classes, fingerprint = (), "gray"
    ...     def __len__(self): return 3
    ...     def image(self, i): return np.full((32, 32, 3), 40 * i, np.uint8)
    >>> extract_features(backbone, spec, Gray(), device="cpu").shape
    (3, 256)
    """
    source = as_source(images)
    transform = transform or default_transform(spec.image_size, spec.interpolation)
    backbone.adaptation(transform.crop)  # refuses sizes that the network does not take
    device = pick_device(device) if isinstance(device, str) else device
    network = FrozenBackbone(backbone, spec, device, representation=representation)
    total = len(source)
    x = np.empty((total, network.width), np.float32)
    with contextlib.closing(
        feature_batches(
            network,
            source,
            range(total),
            transform=transform,
            batch_size=batch_size,
            threads=threads,
        )
    ) as batches:
        for first, rows in batches:
            x[first : first + len(rows)] = rows
            if progress is not None:
                progress(first + len(rows), total)
    return x


class ReadsImages(Protocol):
    """What ``feature_batches`` needs of an ``ImageSource``."""

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        """Decode image i."""


class PixelFunction(Protocol):
    """A function of pixels, (B, 3, H, W) uint8 on the CPU, to (B, D) or (B, T, D) on the CPU.

    Attributes:
        compiled: whether all batches should have the same size.
    """

    @property
    def compiled(self) -> bool: ...

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor: ...


def feature_batches(
    network: PixelFunction,
    source: ReadsImages,
    indices: range,
    *,
    transform: EvaluationTransform,
    batch_size: int,
    threads: int,
) -> Generator[tuple[int, np.ndarray]]:  # each (B, D) or (B, T, D) float32
    """Yield (position in ``indices``, features) for one batch after the other.

    Threads decode the images of the next batch while the network computes the current one. For a compiled
    network, which is compiled again for every new size, the last batch is filled up with zeros.

    Raises:
        UserError: a file is not an image.
        ImageIOError: a file cannot be read.
    """

    def pixels(i: int) -> np.ndarray:
        return transform(source.image(i))

    with ThreadPoolExecutor(threads) as pool:

        def decode(first: int) -> list[Future[np.ndarray]]:
            return [pool.submit(pixels, i) for i in indices[first : first + batch_size]]

        ahead = decode(0)
        try:
            for first in range(0, len(indices), batch_size):
                current, ahead = ahead, decode(first + batch_size)
                images = torch.from_numpy(np.stack([future.result() for future in current]))
                if network.compiled and len(images) < batch_size:
                    missing = images.new_zeros((batch_size - len(images), *images.shape[1:]))
                    images = torch.cat([images, missing])
                yield first, network(images).numpy()[: len(current)]
        finally:
            for future in ahead:
                future.cancel()


def outputs_of_all(
    function: PixelFunction,
    images: ImageSource,
    width: int,
    *,
    transform: EvaluationTransform,
    batch_size: int,
    threads: int,
    label: str,
    each_batch: Callable[[], None] = lambda: None,
) -> torch.Tensor:  # (N, width) float32
    """The outputs for all images; each process computes those of its images.

    Args:
        width: dimension of an output.
        label: of the progress bar.
        each_batch: called after every batch; what it raises ends the pass.
    """
    mine = range(distributed.rank(), len(images), distributed.world_size())
    parts = [torch.empty(0, width)]
    with (
        Progress(label, len(mine), unit="images") as progress,
        Agreement(),
        contextlib.closing(
            feature_batches(
                function,
                images,
                mine,
                transform=transform,
                batch_size=batch_size,
                threads=threads,
            )
        ) as batches,
    ):
        for first, rows in batches:
            parts.append(torch.from_numpy(rows))
            progress.update(first + len(rows))
            each_batch()
    return distributed.gather_by_index(torch.cat(parts), len(images))
