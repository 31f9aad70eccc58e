"""DINO's loss (Caron et al., arXiv 2104.14294) and the state it needs: center and temperature."""

import torch
from torch import Tensor

from pretrain.objectives.clustering import cross_view_entropy
from pretrain.objectives.precision import full_precision


@full_precision
def self_distillation_loss(
    student: list[Tensor],  # V >= 2 of (N, P)
    teacher: list[Tensor],  # A <= V of (N, P), outputs for the first A views
    center: Tensor,  # (P,)
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross entropy from the teacher's distribution of a view to the student's of every other view.

    DINO (arXiv 2104.14294), Alg. 1 with multi-crop: the mean over images and over all pairs of a teacher
    view and a different student view. The teacher's outputs are centered and sharpened: softmax of
    ``(output - center) / temperature``. Teacher and center get no gradient.

    Positive; ``log P`` if the outputs are all zero.

    >>> outputs, center = [torch.zeros(3, 8), torch.zeros(3, 8)], torch.zeros(8)
    >>> loss = self_distillation_loss(
    ...     outputs, outputs, center, student_temperature=0.1, teacher_temperature=0.04
    ... )
    >>> round(loss.exp().item(), 4)
    8.0
    """
    targets = [((view - center) / teacher_temperature).softmax(-1) for view in teacher]
    return cross_view_entropy([view / student_temperature for view in student], targets)


@torch.no_grad()
@full_precision
def updated_center(
    center: Tensor,  # (P,)
    teacher: list[Tensor],  # A of (N, P)
    *,
    momentum: float,
) -> Tensor:  # (P,)
    """``momentum * center + (1 - momentum) * mean``, the mean being over images and teacher views.

    DINO (arXiv 2104.14294), Alg. 1.

    >>> updated_center(torch.zeros(2), [torch.tensor([[1.0, 2.0]])], momentum=0.75).tolist()
    [0.25, 0.5]
    """
    return momentum * center + (1 - momentum) * torch.cat(teacher).mean(0)


def teacher_temperature(epoch: int, *, start: float, final: float, warmup_epochs: int) -> float:
    """The teacher's temperature in an epoch (from 0): linear from ``start`` to ``final``, then constant.

    As in the authors' code, ``final`` is reached in the last of the ``warmup_epochs``. A single epoch of
    warm-up has the temperature ``start``.

    >>> [round(teacher_temperature(e, start=0.04, final=0.07, warmup_epochs=4), 4) for e in range(6)]
    [0.04, 0.05, 0.06, 0.07, 0.07, 0.07]
    """
    if epoch >= warmup_epochs:
        return final
    return start + (final - start) * epoch / max(warmup_epochs - 1, 1)
