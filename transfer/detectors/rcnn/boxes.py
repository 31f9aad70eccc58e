"""Boxes, anchors, offsets, matching and sampling as pure functions.

Boxes are XYXY in pixels of the network's input.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

Weights = tuple[float, float, float, float]

# Upper bound of a predicted log-ratio of sides (Detectron2, box_regression.py).
LARGEST_LOG_RATIO = math.log(1000.0 / 16)


def cell_anchors(
    sizes: list[float],  # square roots of areas
    ratios: list[float],  # height / width
) -> Tensor:  # (S * R, 4)
    """Anchors centered at (0, 0), ordered by size, then by ratio; sides are not rounded."""
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
    """The anchors of a cell at every position of a feature map, row by row.

    Args:
        stride: stride of the feature map in pixels, not derived from the sizes of image and map.
        offset: offset of the first center from the corner, in strides.
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
    """Offsets (dx, dy, dw, dh) from each source to its target (R-CNN, arXiv 1311.2524, appendix C)."""
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
    """Apply offsets to boxes, K for each source; in float32, also under autocast."""
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
    """Intersection over union of XYXY boxes; 0 for two boxes without area (NaN in torchvision).

    >>> square, half = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 1, 2], [5, 5, 5, 5]])
    >>> pairwise_iou(square, half)
    tensor([[0.5000, 0.0000]])
    """
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
    """Sum of the smooth L1 distance (Fast R-CNN, arXiv 1504.08083, equation 3, where beta is 1)."""
    distance = torch.abs(predictions - targets)
    if beta >= 1e-5:  # avoids a division by nearly 0 (fvcore, smooth_l1_loss.py)
        distance = torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
    return distance.sum()


# ---- Matching boxes with objects, and sampling boxes to train on


IGNORE = -1


def match(
    iou: Tensor,  # (G, N), objects by boxes
    thresholds: list[float],
    labels: list[int],
    *,
    low_quality: bool,
) -> tuple[Tensor, Tensor]:  # (N,) int64, (N,) int8
    """The best object of each box, and a label for the interval that its IoU falls in.

    Args:
        thresholds: n ascending values that split [0, 1] into n + 1 intervals, closed below.
        labels: label of each interval: 1 object, 0 background, -1 ignored.
        low_quality: also label the boxes with the highest IoU for some object (ties included) as objects,
            even below the thresholds; the index may then refer to another object (Faster R-CNN, section
            3.1.2, as implemented in Detectron).

    Returns:
        Index of the best object (0 if there are none), and the label.
    """
    count = iou.shape[1]
    if iou.numel() == 0:
        nothing = torch.zeros(count, dtype=torch.int64, device=iou.device)
        return nothing, torch.full_like(nothing, labels[0], dtype=torch.int8)
    best, index = iou.max(dim=0)
    found = torch.ones_like(index, dtype=torch.int8)
    bounds = [-float("inf"), *thresholds, float("inf")]
    for label, low, high in zip(labels, bounds[:-1], bounds[1:], strict=True):
        found[(best >= low) & (best < high)] = label
    if low_quality:
        best_of_object = iou.max(dim=1).values
        _, boxes = (iou == best_of_object[:, None]).nonzero(as_tuple=True)
        found[boxes] = 1
    return index, found


def sample(
    labels: Tensor,  # (N,)
    count: int,
    fraction: float,
    background: int,
) -> tuple[Tensor, Tensor]:
    """Sample at most ``count * fraction`` objects, then background up to ``count`` in total.

    Uses the global generator of the labels' device, for the objects first.

    Returns:
        Indices of objects and of background, each in random order.
    """
    positive = ((labels != IGNORE) & (labels != background)).nonzero().squeeze(1)
    negative = (labels == background).nonzero().squeeze(1)
    positives = min(positive.numel(), int(count * fraction))
    negatives = min(negative.numel(), count - positives)
    objects = torch.randperm(positive.numel(), device=labels.device)[:positives]
    others = torch.randperm(negative.numel(), device=labels.device)[:negatives]
    return positive[objects], negative[others]
