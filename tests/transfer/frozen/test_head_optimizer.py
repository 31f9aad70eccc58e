"""One optimizer for many heads takes the steps of PyTorch's optimizers, one per head."""

import pytest
import torch
from torch import nn

from msbreg.train.optimizers import LARS
from transfer.frozen.head_optimizer import HeadOptimizer

RATES, DECAYS = (0.01, 0.3, 0.1), (0.0, 1e-2, 1e-4)


def tensors(seed: int) -> list[torch.Tensor]:
    """A weight (D, L, C), a bias (1, L, C) and a scale (D, L)."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in ((6, 3, 4), (1, 3, 4), (6, 3))]


def of_torch(rule: str, parameters: list[nn.Parameter], rate: float, decay: float):
    weight, bias, scale = parameters
    groups = [
        {"params": [weight, bias], "weight_decay": decay},
        {"params": [scale], "weight_decay": 0.0},
    ]
    if rule == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9)
    if rule == "nesterov":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    if rule == "adam":
        return torch.optim.Adam(groups, lr=rate)
    adapted = [
        {"params": [weight], "weight_decay": decay, "adapt": True},
        {"params": [bias], "weight_decay": 0.0, "adapt": False},
        {"params": [scale], "weight_decay": 0.0, "adapt": False},
    ]
    return LARS(adapted, lr=rate)


@pytest.mark.parametrize("rule", ["sgd", "nesterov", "adam", "lars"])
def test_each_head_takes_the_steps_of_its_own_optimizer(rule):
    ours = [nn.Parameter(value.clone()) for value in tensors(0)]
    decays = DECAYS if rule != "lars" else (0.0,) * 3  # BYOL does not decay biases
    optimizer = HeadOptimizer(
        ours[:2],
        ours[2:],
        RATES,
        decays,
        rule="sgd" if rule == "nesterov" else rule,
        nesterov=rule == "nesterov",
    )
    alone = [[nn.Parameter(value[:, i].clone()) for value in tensors(0)] for i in range(3)]
    others = [of_torch(rule, alone[i], RATES[i], decays[i]) for i in range(3)]
    for step in range(5):
        for parameter, gradient in zip(ours, tensors(step + 1), strict=True):
            parameter.grad = gradient.clone()
        factor = 1 / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = factor
        optimizer.step()
        for i, other in enumerate(others):
            for parameter, gradient in zip(alone[i], tensors(step + 1), strict=True):
                parameter.grad = gradient[:, i].clone()
            for group in other.param_groups:
                group["lr"] = RATES[i] * factor
            other.step()
    for i in range(3):
        for mine, theirs in zip(ours, alone[i], strict=True):
            # A different order of float32 operations, over five steps.
            torch.testing.assert_close(mine[:, i], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lars"])
def test_a_head_that_diverges_does_not_change_the_others(rule):
    def after_steps(first_rate):
        values = [nn.Parameter(value.clone()) for value in tensors(0)]
        optimizer = HeadOptimizer(
            values[:2],
            values[2:],
            [first_rate, *RATES[1:]],
            (0.0,) * 3,
            rule=rule,
        )
        for step in range(3):
            for parameter, gradient in zip(values, tensors(step + 1), strict=True):
                parameter.grad = gradient.clone()
                if first_rate > 1:
                    parameter.grad[:, 0] = torch.inf
            optimizer.step()
        return [value.detach()[:, 1:] for value in values]

    for sound, beside in zip(after_steps(0.1), after_steps(1e30), strict=True):
        assert torch.equal(sound, beside)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lars"])
def test_the_state_continues_after_saving(rule):
    def make():
        values = [nn.Parameter(value.clone()) for value in tensors(0)]
        return values, HeadOptimizer(values[:2], values[2:], RATES, DECAYS, rule=rule)

    def advance(values, optimizer, steps):
        for step in steps:
            for parameter, gradient in zip(values, tensors(step), strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    whole, optimizer = make()
    advance(whole, optimizer, range(6))
    broken, before = make()
    advance(broken, before, range(3))
    again, after = make()
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        for value, kept in zip(again, broken, strict=True):
            value.copy_(kept)
    advance(again, after, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
