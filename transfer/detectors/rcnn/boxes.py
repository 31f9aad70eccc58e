"""Boxes, anchors, offsets and matching: pure functions. Boxes are XYXY in pixels of the network's input."""

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
    """Sum of |x|, quadratic below beta (Fast R-CNN, arXiv 1504.08083, equation 3, with beta 1)."""
    distance = torch.abs(predictions - targets)
    if beta >= 1e-5:  # below, a division by nearly 0 (fvcore, smooth_l1_loss.py)
        distance = torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
    return distance.sum()


# ---- Which box belongs to which object, and which of them are trained on


IGNORE = -1


def match(
    iou: Tensor,  # (G, N), objects by boxes
    thresholds: list[float],
    labels: list[int],
    *,
    low_quality: bool,
) -> tuple[Tensor, Tensor]:  # (N,) int64, (N,) int8
    """Each box's best object, and a label by the interval of thresholds that its IoU lies in.

    Args:
        thresholds: ascending; n of them part [0, 1] into n + 1 intervals, closed below.
        labels: of the intervals: 1 object, 0 background, -1 neither.
        low_quality: a box that no other beats for some object is that object's (ties included), even
            under the thresholds; its best object may still be another one (Faster R-CNN, section
            3.1.2, as Detectron reads it).

    Returns:
        Index of the best object (0 where there are none) and the label.
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
    """Random indices of at most ``count * fraction`` objects, then of background up to ``count``.

    Draws from the global generator of the labels' device, objects first.

    Returns:
        Indices of objects and of background, both in the order drawn.
    """
    positive = ((labels != IGNORE) & (labels != background)).nonzero().squeeze(1)
    negative = (labels == background).nonzero().squeeze(1)
    positives = min(positive.numel(), int(count * fraction))
    negatives = min(negative.numel(), count - positives)
    drawn = torch.randperm(positive.numel(), device=labels.device)[:positives]
    drawn_too = torch.randperm(negative.numel(), device=labels.device)[:negatives]
    return positive[drawn], negative[drawn_too]
