"""BatchNorm over the rows of all processes, on any device.

PyTorch's ``nn.SyncBatchNorm`` computes the same, but is implemented for accelerators only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Collectives(NamedTuple):
    """How the processes of a group exchange statistics.

    Attributes:
        several: whether there is more than one process.
        gather: concatenates the rows of all processes. Sums are gathered, too: for a few channels, one
            all-gather has a lower latency than an all-reduce, and all processes add in the same order.
    """

    several: Callable[[], bool]
    gather: Callable[[Tensor], Tensor]


class Moments(NamedTuple):
    """Statistics of each channel over the rows of all processes, in at least float32.

    Attributes:
        mean: (C,).
        variance: (C,), the biased one.
        rows: number of values per channel.
    """

    mean: Tensor
    variance: Tensor
    rows: Tensor


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """``nn.SyncBatchNorm`` for any device, with the parameters and buffers of the norm it replaces.

    It accepts inputs of any number of dimensions, and is a BatchNorm2d because other libraries look for
    BatchNorms by their types: fvcore for precise statistics, and DistributedDataParallel, which rejects
    ``nn.SyncBatchNorm`` on the CPU.

    In training, output, input gradient and running statistics are those of ``nn.BatchNorm`` on the joined
    rows of all processes, which may have different numbers of rows. Parameter gradients are those of the
    rows of this process: their sum over processes is that of the joined rows. In evaluation, and with a
    single process, it calls ``F.batch_norm`` like ``nn.BatchNorm``.

    Raises:
        ValueError: in training, the processes together have a single value per channel.
    """

    def __init__(self, norm: nn.SyncBatchNorm, collectives: Collectives) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))
        self.train(norm.training)
        self.collectives = collectives

    def forward(
        self,
        x: Tensor,  # (B, C) or (B, C, ...)
    ) -> Tensor:  # like x
        self._check_input_dim(x)
        if not self.training or not self.collectives.several():
            return super().forward(x)
        with torch.no_grad():
            moments = joint_moments(x, self.collectives.gather)
            self._update_statistics(moments)
        return _Normalize.apply(
            x, self.weight, self.bias, moments, self.eps, self.collectives.gather
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.shape}")

    def _update_statistics(self, moments: Moments) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        # Without momentum, the statistics are the mean over all batches, as in nn.BatchNorm.
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = moments.variance * (moments.rows / (moments.rows - 1))
        for running, value in ((self.running_mean, moments.mean), (self.running_var, unbiased)):
            running.lerp_(value.to(running.dtype), momentum)


def joint_moments(
    x: Tensor,  # (B, C, ...), of this process
    gather: Callable[[Tensor], Tensor],
) -> Moments:
    """Mean and variance over the rows of all processes.

    Each process computes the mean and the sum of squared deviations from it, which are then combined (Chan,
    Golub and LeVeque, 1979). E[x^2] - E[x]^2 would lose the variance of values far from 0.

    Raises:
        ValueError: there is a single value per channel.
    """
    count = x.numel() // x.shape[1]
    if count:
        variance, mean = torch.var_mean(_wide(x), _all_but_channels(x), correction=0)
    else:  # the mean of no values is not a number
        variance, mean = _wide(x).new_zeros(2, x.shape[1])
    # In float64, counts and sums are exact enough for any number of processes.
    local = torch.cat([mean.new_tensor([count]).double(), mean.double(), variance.double()])
    counts, means, variances = gather(local[None]).split([1, x.shape[1], x.shape[1]], dim=1)
    rows = counts.sum()
    if rows <= 1:
        raise ValueError(f"expected more than 1 value per channel in training, got {x.shape}")
    joint = (counts * means).sum(0) / rows
    deviations = (counts * (variances + (means - joint).square())).sum(0)
    return Moments(joint.to(mean.dtype), (deviations / rows).to(mean.dtype), rows.to(mean.dtype))


class _Normalize(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias``, where the moments are functions of x.

    The moments depend on the rows of all processes, so the gradient does too. See Ioffe and Szegedy, arXiv
    1502.03167, §3, for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (B, C, ...)
        weight: Tensor | None,  # (C,)
        bias: Tensor | None,  # (C,)
        moments: Moments,
        epsilon: float,
        gather: Callable[[Tensor], Tensor],
    ) -> Tensor:  # (B, C, ...)
        ctx.save_for_backward(x, weight, *moments)
        ctx.epsilon, ctx.gather = epsilon, gather
        scale, shift = (None if p is None else p.to(moments.mean.dtype) for p in (weight, bias))
        # With given statistics, batch_norm is the formula above in one pass over x.
        return F.batch_norm(x, moments.mean, moments.variance, scale, shift, eps=epsilon)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        gradient: Tensor,  # (B, C, ...)
    ) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, rows = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.ndim - 2)
        inverse = torch.rsqrt(variance + ctx.epsilon)
        scale = inverse if weight is None else inverse * weight
        normalized = (_wide(x) - mean.reshape(shape)) * inverse.reshape(shape)
        wide = _wide(gradient)
        sums = torch.stack(
            [wide.sum(_all_but_channels(x)), (wide * normalized).sum(_all_but_channels(x))]
        )
        to_x = None
        if ctx.needs_input_grad[0]:
            first, second = (s.reshape(shape) for s in ctx.gather(sums[None]).sum(0) / rows)
            to_x = ((wide - first - normalized * second) * scale.reshape(shape)).to(x.dtype)
        to_bias, to_weight = sums if weight is None else sums.to(weight.dtype)
        wanted = ctx.needs_input_grad
        return (
            to_x,
            to_weight if wanted[1] else None,
            to_bias if wanted[2] else None,
            None,
            None,
            None,
        )


def synchronized_everywhere(module: nn.Module, collectives: Collectives) -> nn.Module:
    """Replace every ``nn.SyncBatchNorm`` by a ``SynchronizedBatchNorm`` with the same tensors, in place.

    Returns:
        The module, or its replacement if it is an ``nn.SyncBatchNorm`` itself.
    """
    if type(module) is nn.SyncBatchNorm:
        return SynchronizedBatchNorm(module, collectives)
    for name, child in module.named_children():
        setattr(module, name, synchronized_everywhere(child, collectives))
    return module


def is_synchronized(module: nn.Module) -> bool:
    """Whether a BatchNorm in the module computes its statistics over all processes."""
    kinds = (nn.SyncBatchNorm, SynchronizedBatchNorm)
    return any(isinstance(child, kinds) for child in module.modules())


def _wide(x: Tensor) -> Tensor:
    """In float32, or in float64 if x already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]
