"""Linear classifiers on frozen features: many heads, trained together.

The L heads differ in learning rate, weight decay and normalization, and see the same batches, so that one
forward pass of the backbone and one matrix product (B, D) x (D, L C) serve all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from msbreg.run import distributed
from msbreg.run.errors import UserError

Norm = Literal["none", "no_affine", "affine"]
NORMS: tuple[Norm, ...] = ("none", "no_affine", "affine")


@dataclass(frozen=True)
class Head:
    """How one head is trained.

    Attributes:
        learning_rate: peak learning rate of a step, already scaled to the batch size.
        weight_decay: of weight and bias; the parameters of a normalization are not decayed.
        norm: BatchNorm before the layer: none, without (``no_affine``) or with (``affine``) scale and shift.
    """

    learning_rate: float
    weight_decay: float = 0.0
    norm: Norm = "none"


class FeatureNorm(nn.Module):
    """BatchNorm of frozen features without scale and shift; in training, over the batch of all processes.

    The features need no gradient, so their sums are exchanged without one. Momentum 0.1 and epsilon 1e-5 are
    PyTorch's defaults; the running variance is the unbiased one, as in `torch.nn.BatchNorm1d`.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(
        self,
        features: Tensor,  # (B, D) float32
    ) -> Tensor:  # (B, D)
        mean, variance = self.mean, self.variance
        if self.training:
            count = distributed.total(features.new_tensor([len(features)]))
            mean = distributed.total(features.sum(0)) / count
            variance = distributed.total((features - mean).square().sum(0)) / count
            unbiased = variance * count / (count - 1).clamp_min(1)
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(unbiased, self.momentum)
        return (features - mean) * (variance + self.epsilon).rsqrt()


class Heads(nn.Module):
    """L linear heads side by side. In eval mode, running statistics normalize the features.

    All heads start from the same weights, N(0, 0.01) with bias 0 (Goyal et al. 2019, MoCo, SwAV). Dimension 1
    of every parameter counts the heads.

    Args:
        width: dimension D of the features.
        classes: number of classes C.
        settings: one entry per head.
        generator: draws the initial weights.

    Attributes:
        start_shapes: of the numbers that were drawn, in this order.

    Raises:
        UserError: there is no head, or a learning rate is not positive.
    """

    normed: Tensor
    scaled: Tensor

    def __init__(
        self,
        width: int,
        classes: int,
        settings: Sequence[Head],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not settings or min(head.learning_rate for head in settings) <= 0:
            rates = [head.learning_rate for head in settings]
            raise UserError(f"learning rates {rates}: expected one or more, all above 0")
        self.settings, self.classes = tuple(settings), classes
        heads = len(settings)
        self.start_shapes: tuple[tuple[int, ...], ...] = ((width, 1, classes),)
        start = 0.01 * torch.randn(self.start_shapes[0], generator=generator)
        self.weight = nn.Parameter(start.repeat(1, heads, 1))
        self.bias = nn.Parameter(torch.zeros(1, heads, classes))
        norms = [head.norm for head in settings]
        self.norm = FeatureNorm(width) if set(norms) != {"none"} else None
        self.all_alike = set(norms) == {"no_affine"}
        # Heads without a scale keep ones and zeros, which the optimizer does not change.
        self.scale = self.shift = None
        if "affine" in norms:
            self.scale = nn.Parameter(torch.ones(width, heads))
            self.shift = nn.Parameter(torch.zeros(width, heads))
        for name, values in (
            ("normed", [norm != "none" for norm in norms]),
            ("scaled", [norm == "affine" for norm in norms]),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(
        self,
        features: Tensor,  # (B, D)
        labels: Tensor,  # (B,)
        images: int,
    ) -> tuple[Tensor, Tensor]:  # (), (L,)
        """The sum of the heads' losses, with gradient, and the sum over the batch of each head's loss.

        Args:
            images: number of images of the batch in all processes. The first result is scaled such that the
                mean of its gradients over processes is the gradient of the mean loss of the whole batch.
        """
        scores = self.logits(features)
        summed, losses = _SummedCrossEntropy.apply(scores, labels)
        return summed * (distributed.world_size() / images), losses

    def logits(
        self,
        features: Tensor,  # (B, D)
    ) -> Tensor:  # (B, L, C) float32
        """The logits of all heads; those of a diverged head may be NaN."""
        if features.shape[-1] != self.weight.shape[0]:
            raise UserError(
                f"features have shape {tuple(features.shape)}, but the heads were made for features of "
                f"width {self.weight.shape[0]}. Take both from the same backbone and layer."
            )
        features = features.float()
        flat, bias = self.weight.flatten(1), self.bias.flatten()
        if self.norm is None:
            return torch.addmm(bias, features, flat).unflatten(1, (-1, self.classes))
        normalized = self.norm(features)
        if self.all_alike:
            return torch.addmm(bias, normalized, flat).unflatten(1, (-1, self.classes))
        # One input per head: normalized or not, scaled and shifted or not.
        inputs = torch.where(self.normed, normalized.unsqueeze(2), features.unsqueeze(2))
        if self.scale is not None and self.shift is not None:
            inputs = torch.where(self.scaled, inputs * self.scale + self.shift, inputs)
        return torch.einsum("bdl,dlc->blc", inputs, self.weight) + self.bias

    def decayed(self) -> list[nn.Parameter]:
        """Parameters with weight decay."""
        return [self.weight, self.bias]

    def undecayed(self) -> list[nn.Parameter]:
        """Scale and shift of the normalization, if there is one."""
        return [p for p in (self.scale, self.shift) if p is not None]

    def as_linear(
        self,
        head: int,
        standardize: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:  # (D, C), (C,) float32, on the CPU
        """Weight and bias of one head in eval mode, with its normalization folded in.

        Args:
            standardize: (mean, standard deviation), each (D,), of features that were standardized before.
        """
        weight = self.weight[:, head].detach().double().cpu()
        gain, offset = weight.new_ones(len(weight)), weight.new_zeros(len(weight))
        steps = [] if standardize is None else [(standardize[0], standardize[1].double() ** -1)]
        if self.norm is not None and self.normed[head]:
            steps.append(
                (self.norm.mean, (self.norm.variance + self.norm.epsilon).double().rsqrt())
            )
        for mean, factor in steps:
            factor = factor.cpu()
            gain, offset = gain * factor, (offset - mean.double().cpu()) * factor
        if self.scale is not None and self.shift is not None and self.scaled[head]:
            scale = self.scale[:, head].detach().double().cpu()
            gain, offset = (
                gain * scale,
                offset * scale + self.shift[:, head].detach().double().cpu(),
            )
        bias = self.bias[0, head].detach().double().cpu() + offset @ weight
        return (gain[:, None] * weight).float(), bias.float()

    def finite(self) -> Tensor:  # (L,) bool
        """Which heads have finite weights."""
        return self.weight.isfinite().all(dim=2).all(dim=0)


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of L heads, summed over the batch, with an explicit gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, slope = cross_entropy_and_gradient(scores, labels)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient, None


def cross_entropy_and_gradient(
    scores: Tensor,  # (B, L, C)
    labels: Tensor,  # (B,)
) -> tuple[Tensor, Tensor]:  # (L,), (B, L, C)
    """Sum over the batch of -log softmax at the labels, with its gradient, softmax - one-hot."""
    at_labels = labels[:, None, None].expand(-1, scores.shape[1], 1)
    log_shares = scores.log_softmax(2)
    losses = -log_shares.gather(2, at_labels).squeeze(2).sum(0)
    gradient = log_shares.exp_()
    gradient.scatter_add_(2, at_labels, gradient.new_full((1, 1, 1), -1.0).expand(at_labels.shape))
    return losses, gradient


def best_on_held_out(
    hits: Tensor,  # (L,), correctly classified images, held out of the training split
    final_losses: Tensor,  # (L,)
) -> int:
    """Index of the head with the most hits; the first one wins ties.

    Use it with images held out of the training split (`held_out_split`), never with the split whose score
    is reported.

    Raises:
        UserError: every head diverged.

    >>> best_on_held_out(torch.tensor([3, 7, 7]), torch.tensor([0.5, 0.4, 0.3]))
    1
    """
    sound = final_losses.isfinite()
    if not sound.any():
        raise UserError(
            f"all {len(sound)} heads diverged; expected at least one with a finite loss. Give lower "
            "learning rates."
        )
    return int(torch.where(sound, hits, -1).argmax())


def held_out_split(
    labels: Tensor,  # (N,)
    fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor]:  # (N - M,), (M,) int64, both ascending
    """Hold out a random fraction of each class, rounded; at least one image of each remains for training.

    Raises:
        UserError: the fraction is not between 0 and 1, or no class is large enough to hold out one.
    """
    labels = labels.cpu()
    # Shuffle, then group by class: an image's place in its group is a random rank in its class.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    _, group, sizes = labels[order].unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[group]
    quota = (sizes * fraction + 0.5).floor().long().minimum(sizes - 1)
    held_out = order[rank < quota[group]].sort().values
    if not 0 < fraction < 1 or not len(held_out):
        raise UserError(
            f"holding out {fraction} of {len(labels)} images in {len(sizes)} classes leaves "
            f"{len(held_out)}: expected a fraction between 0 and 1 that gives at least one. "
            "Raise it, or give a single learning rate or regularization, so that nothing has to be selected."
        )
    return order[rank >= quota[group]].sort().values, held_out


# ---- The learning rate over time, as a factor on each head's own


Schedule = Literal["cosine", "steps", "exponential"]


def schedule_factor(
    schedule: Schedule,
    step: int,
    total: int,
    *,
    drops: Sequence[float] = (),  # as fractions of the training
    final: float = 1e-4,
) -> float:
    """The factor on the learning rate at a step, from 1.

    ``cosine`` ends at 0 (half a period, per step); ``steps`` multiplies by 0.1 at each of ``drops``;
    ``exponential`` ends at ``final``.

    >>> [schedule_factor("steps", step, 9, drops=(1 / 3, 2 / 3)) for step in (0, 3, 6)]
    [1.0, 0.1, 0.01]
    """
    share = step / total
    if schedule == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    if schedule == "exponential":
        return final**share
    passed = sum(share >= drop - 1e-9 for drop in drops)
    return float(f"{0.1**passed:.12g}")
