"""Schedules, and the LARS optimizer with its parameter groups as BYOL uses them.

A schedule is a pure function of the step. Steps count from 0; ``total`` is the number of steps.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def warmup_cosine(
    step: int, total: int, *, peak: float, warmup: int, start: float = 0.0, final: float = 0.0
) -> float:
    """Linear warm-up from ``start`` to ``peak`` over ``warmup`` steps, then cosine decay to ``final``.

    Updated per step, not per epoch. MSBReg §7.1; BYOL (Grill et al., arXiv 2006.07733, appendix J).

    >>> [round(warmup_cosine(step, 8, peak=1.0, warmup=2), 3) for step in range(9)]
    [0.0, 0.5, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def target_decay(step: int, total: int, *, base: float) -> float:
    """EMA decay of the target network: rises from ``base`` to 1 along a half cosine (BYOL, §3.3).

    >>> [round(target_decay(step, 4, base=0.996), 4) for step in range(5)]
    [0.996, 0.9966, 0.998, 0.9994, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * step / total) + 1) / 2


# ---- LARS


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive momentum SGD (You et al., arXiv 1708.03888) in BYOL's form.

    For each adapted parameter: ``g <- g + weight_decay * w``; ``g <- g * trust * |w| / |g|`` (1 where
    either norm is 0); ``m <- momentum * m + g``; ``w <- w - lr * m``. Groups with ``adapt=False`` skip
    the first two updates. Source: deepmind-research, ``byol/utils/optimizers.py``.

    timm's ``Lars`` divides by ``|g| + weight_decay * |w|`` instead of ``|g + weight_decay * w|`` and takes
    different steps; ``tests/msbreg/train/test_optimizers.py`` shows the difference.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "adapt": True,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "LARS does not support closures"
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            if group["adapt"]:
                gradients = self._adapted(weights, gradients, group)
            buffers = []
            for weight in weights:
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffers.append(state["momentum_buffer"])
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])

    @staticmethod
    def _adapted(weights: list[Tensor], gradients: list[Tensor], group: dict) -> list[Tensor]:
        decayed = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        weight_norms = torch.stack(torch._foreach_norm(weights))
        gradient_norms = torch.stack(torch._foreach_norm(decayed))
        usable = (weight_norms > 0) & (gradient_norms > 0)
        ratios = group["trust"] * weight_norms / torch.where(usable, gradient_norms, 1.0)
        factors = torch.where(usable, ratios, 1.0)
        torch._foreach_mul_(decayed, list(factors.unbind()))
        return list(decayed)


def lars_groups(module: nn.Module, *, weight_decay: float) -> list[dict]:
    """Two groups: weights, and tensors of at most one dimension (biases and norm parameters).

    The second group has neither weight decay nor adaptation (BYOL, appendix J; MSBReg §7.1).
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
