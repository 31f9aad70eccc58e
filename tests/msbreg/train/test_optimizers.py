import pytest
import torch
from timm.optim.lars import Lars
from torch import nn

from msbreg.train.optimizers import LARS, lars_groups


def by_hand(weights, gradients, steps, *, lr, momentum, weight_decay, trust, adapt):
    """BYOL's update, one tensor at a time, in the order of the original code."""
    weights = [w.clone() for w in weights]
    buffers = [torch.zeros_like(w) for w in weights]
    for _ in range(steps):
        for i, gradient in enumerate(gradients):
            update = gradient.clone()
            if adapt:
                update = update + weight_decay * weights[i]
                long, short = weights[i].norm(), update.norm()
                ratio = trust * long / short if long > 0 and short > 0 else 1.0
                update = update * ratio
            buffers[i] = momentum * buffers[i] + update
            weights[i] = weights[i] - lr * buffers[i]
    return weights


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), (2, 3, 3, 3)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_matches_the_update_of_byol(adapt, weight_decay):
    start, gradients = draw(0), draw(1)
    rule = {"lr": 0.5, "momentum": 0.9, "weight_decay": weight_decay, "trust": 1e-2}
    weights = [nn.Parameter(w.clone()) for w in start]
    optimizer = LARS([{"params": weights, "adapt": adapt}], **rule)
    for _ in range(3):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    expected = by_hand(start, gradients, 3, adapt=adapt, **rule)
    torch.testing.assert_close([w.data for w in weights], expected)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_the_trust_ratio_is_1_if_a_norm_is_0(zero):
    weight = nn.Parameter(torch.zeros(3) if zero == "weight" else torch.ones(3))
    weight.grad = torch.zeros(3) if zero == "gradient" else torch.ones(3)
    LARS([weight], lr=0.5, momentum=0.0).step()
    expected = torch.full((3,), -0.5) if zero == "weight" else torch.ones(3)
    assert torch.equal(weight.data, expected)


def test_timms_lars_takes_a_different_step():
    """The reason for our own LARS: with weight decay, timm's trust ratio has a different denominator."""
    start, gradients = draw(0), draw(1)
    rule = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.5}
    theirs = [nn.Parameter(w.clone()) for w in start]
    for weight, gradient in zip(theirs, gradients, strict=True):
        weight.grad = gradient.clone()
    Lars(theirs, trust_coeff=1e-2, **rule).step()
    expected = by_hand(start, gradients, 1, trust=1e-2, adapt=True, **rule)
    differences = [
        ((t.data - s).norm() / (e - s).norm() - 1).abs()
        for t, e, s in zip(theirs, expected, start, strict=True)
    ]
    assert max(differences) > 0.01


def test_biases_and_norms_are_neither_decayed_nor_adapted():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    adapted, plain = lars_groups(module, weight_decay=0.1)
    assert [tuple(p.shape) for p in adapted["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert adapted["adapt"]
    assert adapted["weight_decay"] == 0.1
    assert all(p.ndim == 1 for p in plain["params"])
    assert len(plain["params"]) == 4
    assert not plain["adapt"]
    assert plain["weight_decay"] == 0


def test_frozen_parameters_are_excluded():
    module = nn.Linear(3, 2)
    module.weight.requires_grad_(False)
    adapted, plain = lars_groups(module, weight_decay=0.1)
    assert not adapted["params"]
    assert len(plain["params"]) == 1
