"""Optimizers for heads side by side: each head has its own learning rate and weight decay.

The updates are those of `torch.optim.SGD`, `torch.optim.Adam` and ``msbreg.train.optimizers.LARS``, which
have one learning rate per tensor. Dimension 1 of every parameter counts the heads.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Rule = Literal["sgd", "adam", "lars"]


class HeadOptimizer(torch.optim.Optimizer):
    """Updates the parameters of L heads.

    The group's ``lr`` is a factor on the learning rates of all heads.

    Args:
        decayed: weights (D, L, C) and biases (1, L, C), with weight decay.
        undecayed: scales and shifts of normalizations, (D, L).
        learning_rates: L of them.
        weight_decays: L of them; added to the gradient.
        rule: ``sgd``, ``adam`` or ``lars``.
        momentum: of sgd and lars.
        nesterov: of sgd.
    """

    def __init__(
        self,
        decayed: Iterable[Tensor],
        undecayed: Iterable[Tensor],
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        *,
        rule: Rule = "sgd",
        momentum: float = 0.9,
        nesterov: bool = True,
    ) -> None:
        decayed = list(decayed)
        device = decayed[0].device
        self.learning_rates = torch.tensor(learning_rates, device=device)
        self.weight_decays = torch.tensor(weight_decays, device=device)
        self.decays = any(weight_decays)
        self.update = UPDATES[rule]
        groups = [{"params": decayed, "decay": True}]
        if undecayed := list(undecayed):
            groups.append({"params": undecayed, "decay": False})
        super().__init__(groups, {"lr": 1.0, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            for values in group["params"]:
                shape = (1, -1) + (1,) * (values.ndim - 2)
                gradient = values.grad
                if group["decay"] and self.decays:
                    gradient = gradient + values * self.weight_decays.view(shape)
                rates = (self.learning_rates * group["lr"]).view(shape)
                self.update(values, gradient, self.state[values], rates, group)


def _sgd(
    values: Tensor, gradient: Tensor, state: dict[str, Any], rates: Tensor, group: dict[str, Any]
) -> None:
    """`torch.optim.SGD`: the learning rate is applied after momentum."""
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(values)
    velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
    if group["nesterov"]:
        velocity = gradient.add(velocity, alpha=group["momentum"])
    values.addcmul_(velocity, rates, value=-1)


def _adam(
    values: Tensor, gradient: Tensor, state: dict[str, Any], rates: Tensor, group: dict[str, Any]
) -> None:
    """`torch.optim.Adam` with its defaults: betas 0.9 and 0.999, epsilon 1e-8."""
    if "step" not in state:
        state["step"] = 0
        state["first"], state["second"] = torch.zeros_like(values), torch.zeros_like(values)
    state["step"] += 1
    steps = state["step"]
    first = state["first"].lerp_(gradient, 1 - 0.9)
    second = state["second"].mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
    root = second.sqrt() / (1 - 0.999**steps) ** 0.5 + 1e-8
    values.addcmul_(first / root, rates, value=-1 / (1 - 0.9**steps))


TRUST = 1e-3


def _lars(
    values: Tensor, gradient: Tensor, state: dict[str, Any], rates: Tensor, group: dict[str, Any]
) -> None:
    """LARS in BYOL's form: weights are adapted head by head; biases and norms take plain momentum steps."""
    if values.ndim == 3 and values.shape[0] > 1:
        dims = (0, 2)
        weight_norm = values.norm(dim=dims, keepdim=True)
        gradient_norm = gradient.norm(dim=dims, keepdim=True)
        usable = (weight_norm > 0) & (gradient_norm > 0)
        ratio = TRUST * weight_norm / torch.where(usable, gradient_norm, 1.0)
        gradient = gradient * torch.where(usable, ratio, 1.0)
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(values)
    velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
    values.addcmul_(velocity, rates, value=-1)


Update = Callable[[Tensor, Tensor, dict[str, Any], Tensor, dict[str, Any]], None]
UPDATES: dict[Rule, Update] = {"sgd": _sgd, "adam": _adam, "lars": _lars}
