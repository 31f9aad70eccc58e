"""Labels of whole images: in one pass, of a central crop, or by overlapping windows.

The logits are resized to the label map before the argmax, so that scores refer to its own resolution. Windows
are placed and averaged as in MMSegmentation (mmseg/models/segmentors/encoder_decoder.py).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.backbones.spec import Normalization
from msbreg.data.segmentation.label_maps import VOID
from msbreg.train.health import NotFinite
from transfer.segmenters.crops import normalized, resize_image, scaled_size
from transfer.segmenters.fcn import Segmenter
from transfer.segmenters.segmentation_config import InferenceOptions, Size


def label_pixels(
    network: Segmenter,  # in eval mode
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    options: InferenceOptions,
    normalization: Normalization,
    device: torch.device,
) -> np.ndarray:  # (H, W) uint8
    """The most likely class of each pixel; VOID outside of the central crop, if only that is evaluated.

    Raises:
        NotFinite: the logits are not finite.
    """
    window = (slice(None), slice(None))
    if options.mode == "center":
        window = central_window(image.shape[:2], options.crop)
    labels = np.full(image.shape[:2], VOID, np.uint8)
    scores = class_scores(network, image[window], options, normalization, device)
    labels[window] = scores.argmax(0).to(torch.uint8).cpu().numpy()
    return labels


def central_window(shape: Size, crop: Size) -> tuple[slice, slice]:
    """The central part of an image of this height and width, at most as large as the crop.

    >>> central_window((600, 400), (513, 513))
    (slice(43, 556, None), slice(0, 400, None))
    """
    top, left = (max(side - wanted, 0) // 2 for side, wanted in zip(shape, crop, strict=True))
    return (
        slice(top, min(top + crop[0], shape[0])),
        slice(left, min(left + crop[1], shape[1])),
    )


@torch.no_grad()
def class_scores(
    network: Segmenter,
    image: np.ndarray,  # (H, W, 3) uint8 RGB
    options: InferenceOptions,
    normalization: Normalization,
    device: torch.device,
) -> Tensor:  # (C, H, W)
    """Logits of the image, or probabilities summed over scales and mirror images.

    Raises:
        NotFinite: they are not finite.
    """
    size = (image.shape[0], image.shape[1])
    single = len(options.scales) == 1 and not options.flip
    total: Tensor | None = None
    for scale in options.scales:
        scaled = scaled_size(size, scale, options.base)
        pixels = image if scaled == size else resize_image(image, scaled)
        stacked = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        x = normalized(stacked.to(device).contiguous(), None, normalization)
        for mirrored in (False, True) if options.flip else (False,):
            logits = _logits(network, x.flip(3) if mirrored else x, options)
            logits = network.resize(logits.flip(3) if mirrored else logits, size)
            scores = logits if single else logits.softmax(1)
            total = scores if total is None else total + scores
    assert total is not None
    if not torch.isfinite(total).all():
        raise NotFinite(
            "the logits are not finite numbers: the network has diverged, or its input differs from that in "
            "training. Give another checkpoint, or lower solver.learning_rates"
        )
    return total[0]


def _logits(
    network: Segmenter,
    x: Tensor,  # (1, 3, H, W)
    options: InferenceOptions,
) -> Tensor:  # (1, C, H, W)
    if options.mode == "slide":
        return sliding_logits(network, x, options.crop, options.stride)
    height, width = x.shape[-2:]
    if (
        options.mode == "center"
    ):  # as in training: 0, the mean, below and to the right of small images
        more = [
            max(wanted - side, 0)
            for side, wanted in zip((height, width), options.crop, strict=True)
        ]
        x = F.pad(x, (0, more[1], 0, more[0]))
    logits: Tensor = network(x)
    return logits[..., :height, :width]


def sliding_logits(
    network: Segmenter,
    x: Tensor,  # (B, 3, H, W)
    crop: Size,
    stride: Size,
) -> Tensor:  # (B, C, H, W)
    """Mean of the logits of all windows that contain a pixel; the last windows end at the border."""
    total: Tensor | None = None
    count = x.new_zeros(1, 1, *x.shape[-2:])
    for rows in window_slices(x.shape[-2], crop[0], stride[0]):
        for columns in window_slices(x.shape[-1], crop[1], stride[1]):
            logits = network(x[..., rows, columns])
            if total is None:
                total = logits.new_zeros(len(x), logits.shape[1], *x.shape[-2:])
            total[..., rows, columns] += logits
            count[..., rows, columns] += 1
    assert total is not None
    return total / count


def window_slices(length: int, crop: int, stride: int) -> list[slice]:
    """Windows along one side.

    >>> window_slices(10, 4, 3)
    [slice(0, 4, None), slice(3, 7, None), slice(6, 10, None)]
    >>> window_slices(3, 4, 3)
    [slice(0, 3, None)]
    """
    number = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(index * stride + crop, length) for index in range(number)]
    return [slice(max(end - crop, 0), end) for end in ends]
