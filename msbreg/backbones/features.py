"""``extract_features``: compute features with a frozen backbone, for the protocols and your own analysis."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.resnet import ResNet, embed, normalize
from msbreg.backbones.spec import BackboneSpec, Provenance
from msbreg.data.sources import ImageSource, as_source
from msbreg.data.transforms import EvaluationTransform, default_transform
from msbreg.run.distributed import pick_device


def extract_features(
    backbone: ResNet,
    spec: BackboneSpec | Provenance,
    images: str | Path | Sequence[str | Path] | ImageSource,
    *,
    transform: EvaluationTransform | None = None,
    device: str | torch.device = "auto",
    batch_size: int = 64,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:  # (N, D) float32
    """Global average pool of the last stage for each image.

    Row i contains the features of image i of the list or source. For a folder, images are in the order of
    ``msbreg.data.folder.list_images(folder).paths``.

    Args:
        spec: spec of the backbone; its normalization, channel order and image size are applied.
        images: a folder (with or without one subfolder per class), a list of files, or a source.
        transform: None uses the default of the network: resize the short side to 256, crop the center 224;
            for networks trained on at most 64 pixels, the center square at their training size.
        device: auto, cpu, cuda, cuda:N or a ``torch.device``.
        batch_size: images per forward pass.
        threads: number of threads that decode images, one batch ahead of the network.
        progress: called with (done, total) after each batch.

    Raises:
        UserError: the folder has no images, the list is empty, or a file is not an image.
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
    if transform is None:
        transform = default_transform(spec.image_size)
    device = pick_device(device) if isinstance(device, str) else device
    backbone = backbone.to(device).to(memory_format=torch.channels_last).eval()
    total = len(source)

    def pixels(i: int) -> np.ndarray:
        return transform(source.image(i))

    x = np.empty((total, backbone.channels["c5"]), np.float32)
    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():

        def decode(first: int) -> list[Future[np.ndarray]]:
            return [pool.submit(pixels, i) for i in range(first, min(first + batch_size, total))]

        ahead = decode(0)
        for first in range(0, total, batch_size):
            current, ahead = ahead, decode(first + batch_size)
            try:
                batch = torch.from_numpy(np.stack([future.result() for future in current]))
            except BaseException:
                for future in ahead:
                    future.cancel()
                raise
            x[first : first + len(batch)] = features_of(backbone, batch, device, spec).numpy()
            if progress is not None:
                progress(first + len(batch), total)
    return x


def features_of(
    backbone: ResNet,  # on the device
    pixels: Tensor,  # (B, 3, H, W) uint8 RGB, on the CPU
    device: torch.device,
    spec: BackboneSpec | Provenance,
) -> Tensor:  # (B, D) float32, on the CPU
    """Global average pools of one batch."""
    return embed(backbone, normalize(pixels, device, spec.normalization)).float().cpu()
