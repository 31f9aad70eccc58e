"""Which box belongs to which object, and which of them are trained on."""

import torch
from torch import Tensor

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
