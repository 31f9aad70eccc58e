"""The keypoint branch of an R-CNN: layers, loss and inference (Mask R-CNN, arXiv 1703.06870, section 5).

A keypoint is a one-hot mask: the branch predicts a map of logits in each box, and the loss is a softmax over
its cells. Coordinates are continuous: a cell with index i spans [i, i + 1), and its center is i + 0.5.
"""

import math

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from transfer.detectors.rcnn.layers import Conv, fill_msra

UPSCALE = 2.0
"""The last layer doubles the side once more (Detectron2, keypoint_head.py)."""


class KeypointHead(nn.Module):
    """3x3 convolutions with ReLU, then two doublings of the side: (R, C, S, S) -> (R, K, 4S, 4S) logits."""

    def __init__(self, config: CfgNode, channels: int) -> None:
        super().__init__()
        settings = config.MODEL.ROI_KEYPOINT_HEAD
        self.convolutions = [f"conv_fcn{i + 1}" for i in range(len(settings.CONV_DIMS))]
        for name, width in zip(self.convolutions, settings.CONV_DIMS, strict=True):
            self.add_module(name, Conv(channels, width, 3, bias=True))
            channels = width
        self.score_lowres = nn.ConvTranspose2d(
            channels, settings.NUM_KEYPOINTS, 4, stride=2, padding=1
        )
        for layer in self.children():
            fill_msra(layer)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for name in self.convolutions:
            x = F.relu(self.get_submodule(name)(x))
        x = self.score_lowres(x)
        return F.interpolate(x, scale_factor=UPSCALE, mode="bilinear", align_corners=False)


def shows_keypoint(
    keypoints: Tensor,  # (R, K, 3), of each box's object
    boxes: Tensor,  # (R, 4)
) -> Tensor:  # (R,) bool
    """Whether a labeled keypoint of its object is inside each box, edges included.

    The branch trains on these boxes only (Detectron2, select_proposals_with_visible_keypoints).
    """
    x, y, visibility = keypoints.unbind(dim=2)
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(dim=1))
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return (inside & (visibility >= 1)).any(dim=1)


def keypoint_targets(
    keypoints: Tensor,  # (R, K, 3), of each box's object
    boxes: Tensor,  # (R, 4)
    side: int,
) -> tuple[Tensor, Tensor]:  # (R, K) int64, (R, K) bool
    """The cell of each keypoint in a (side, side) grid over its box, row by row; and whether it has one.

    A keypoint has a cell if it is labeled and inside the box; the right and bottom edges belong to the last
    column and row. Without a cell, the index is 0.

    >>> box = torch.tensor([[0.0, 0, 8, 8]])
    >>> keypoint_targets(torch.tensor([[[8.0, 3, 2], [9, 3, 2]]]), box, 4)
    (tensor([[7, 0]]), tensor([[ True, False]]))
    """
    cells = []
    valid = keypoints[..., 2] > 0
    for axis in (0, 1):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        position = keypoints[..., axis]
        cell = ((position - low) * (side / (high - low))).floor().long()
        cell[position == high] = side - 1
        valid = valid & (cell >= 0) & (cell < side)
        cells.append(cell)
    x, y = cells
    return (y * side + x) * valid, valid


def keypoint_loss(
    logits: Tensor,  # (R, K, S, S)
    cells: Tensor,  # (R, K) int64
    valid: Tensor,  # (R, K) bool
    normalizer: float | None,
) -> Tensor:  # ()
    """Softmax cross-entropy over the cells, summed over the valid keypoints; 0 without any.

    Args:
        normalizer: the sum is divided by it; None for the number of valid keypoints.
    """
    index = valid.flatten().nonzero().squeeze(1)
    if len(index) == 0:
        return logits.sum() * 0
    maps = logits.flatten(2).flatten(0, 1)
    loss = F.cross_entropy(maps[index], cells.flatten()[index], reduction="sum")
    return loss / (len(index) if normalizer is None else normalizer)


def fixed_normalizer(config: CfgNode, images: int) -> float | None:
    """The number of keypoints that the loss is divided by; None for the number of valid ones.

    Without MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS it is that of a batch in which each
    region that may be an object is one, with all keypoints.
    """
    settings, regions = config.MODEL.ROI_KEYPOINT_HEAD, config.MODEL.ROI_HEADS
    if settings.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS:
        return None
    # In this order: the product is rounded.
    of_image = settings.NUM_KEYPOINTS * regions.BATCH_SIZE_PER_IMAGE * regions.POSITIVE_FRACTION
    return images * of_image


def find_keypoints(
    logits: Tensor,  # (N, K, S, S)
    boxes: Tensor,  # (N, 4)
) -> Tensor:  # (N, K, 3): x, y, score
    """The most likely place of each keypoint, and its score.

    Logits are resampled (bicubic) to one cell per pixel of the box, rounded up. The score is the highest
    softmax probability, normalized over the cells of the original map, so that scores of boxes of different
    sizes are comparable (Detectron2, structures/keypoints.py, heatmaps_to_keypoints).
    """
    found = logits.new_zeros(*logits.shape[:2], 3)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    scale = sides / sides.ceil()  # pixels per cell
    every = torch.arange(logits.shape[1], device=logits.device)
    for i, (width, height) in enumerate(sides.tolist()):
        size = (math.ceil(height), math.ceil(width))
        fine = F.interpolate(logits[i : i + 1], size=size, mode="bicubic", align_corners=False)[0]
        highest = fine.amax((1, 2), keepdim=True)
        place = fine.flatten(1).argmax(dim=1)
        total = (logits[i] - highest).exp_().sum((1, 2), keepdim=True)
        probability = (fine - highest).exp_() / total
        x, y = place % size[1], place // size[1]
        found[i, :, 0] = (x.float() + 0.5) * scale[i, 0] + boxes[i, 0]
        found[i, :, 1] = (y.float() + 0.5) * scale[i, 1] + boxes[i, 1]
        found[i, :, 2] = probability[every, y, x]
    return found
