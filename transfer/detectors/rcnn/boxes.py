"""Boxes, anchors and offsets: pure functions. Boxes are XYXY in pixels of the network's input."""

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

Weights = tuple[float, float, float, float]

# exp() of a predicted log-ratio of sides is bounded by 1000 / 16 (Detectron2, box_regression.py).
LARGEST_LOG_RATIO = math.log(1000.0 / 16)


def cell_anchors(
    sizes: list[float],  # roots of areas
    ratios: list[float],  # height / width
) -> Tensor:  # (S * R, 4)
    """Anchors around (0, 0), by size and then by ratio; sides are not rounded."""
    made = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            made.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
    return torch.tensor(made)


def grid_anchors(
    cell: Tensor,  # (A, 4)
    height: int,
    width: int,
    *,
    stride: int,
    offset: float,
) -> Tensor:  # (height * width * A, 4)
    """A cell's anchors at every place of a feature map, row by row.

    Args:
        stride: of the feature map, in pixels; fixed, not what the sizes of the maps suggest.
        offset: of the first center from the corner, in strides.
    """
    along = {
        n: torch.arange(offset * stride, n * stride, step=stride, dtype=torch.float32).to(
            cell.device
        )
        for n in (height, width)
    }
    y, x = torch.meshgrid(along[height], along[width], indexing="ij")
    shifts = torch.stack((x.reshape(-1), y.reshape(-1), x.reshape(-1), y.reshape(-1)), dim=1)
    return (shifts.view(-1, 1, 4) + cell.view(1, -1, 4)).reshape(-1, 4)


def _center_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Center x, center y, width, height, each (N,)."""
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    return boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights, widths, heights


def encode(
    sources: Tensor,  # (N, 4)
    targets: Tensor,  # (N, 4)
    weights: Weights,
) -> Tensor:  # (N, 4)
    """Offsets (dx, dy, dw, dh) that lead from each source to its target (R-CNN, arXiv 1311.2524, C)."""
    x, y, width, height = _center_form(sources)
    target_x, target_y, target_width, target_height = _center_form(targets)
    wx, wy, ww, wh = weights
    return torch.stack(
        (
            wx * (target_x - x) / width,
            wy * (target_y - y) / height,
            ww * torch.log(target_width / width),
            wh * torch.log(target_height / height),
        ),
        dim=1,
    )


def decode(
    offsets: Tensor,  # (N, K * 4)
    sources: Tensor,  # (N, 4)
    weights: Weights,
) -> Tensor:  # (N, K * 4)
    """Boxes that offsets lead to, K from each source; in float32 under autocast, too."""
    offsets = offsets.float()
    x, y, width, height = (part[:, None] for part in _center_form(sources.to(offsets.dtype)))
    wx, wy, ww, wh = weights
    center_x = offsets[:, 0::4] / wx * width + x
    center_y = offsets[:, 1::4] / wy * height + y
    new_width = torch.exp(torch.clamp(offsets[:, 2::4] / ww, max=LARGEST_LOG_RATIO)) * width
    new_height = torch.exp(torch.clamp(offsets[:, 3::4] / wh, max=LARGEST_LOG_RATIO)) * height
    corners = (
        center_x - 0.5 * new_width,
        center_y - 0.5 * new_height,
        center_x + 0.5 * new_width,
        center_y + 0.5 * new_height,
    )
    return torch.stack(corners, dim=-1).reshape(offsets.shape)


def pairwise_iou(
    first: Tensor,  # (N, 4)
    second: Tensor,  # (M, 4)
) -> Tensor:  # (N, M)
    """Intersection over union; 0 for two boxes without area, where torchvision's is not a number."""
    return box_iou(first, second).nan_to_num_(nan=0.0)


def larger_than(
    boxes: Tensor,  # (N, 4)
    side: float,
) -> Tensor:  # (N,) bool
    """Whether both sides of a box are longer than ``side`` pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides > side).all(dim=1)


def smooth_l1_sum(
    predictions: Tensor,  # (N, 4)
    targets: Tensor,  # (N, 4)
    beta: float,
) -> Tensor:  # ()
    """Sum of |x|, quadratic below beta (Fast R-CNN, arXiv 1504.08083, equation 3, with beta 1)."""
    distance = torch.abs(predictions - targets)
    if beta >= 1e-5:  # below, a division by nearly 0 (fvcore, smooth_l1_loss.py)
        distance = torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
    return distance.sum()
