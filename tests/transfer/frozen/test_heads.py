"""Heads side by side compute what PyTorch's modules compute one by one."""

import pytest
import torch
from torch import nn

from msbreg.run.errors import UserError
from transfer.frozen.heads import (
    FeatureNorm,
    Head,
    Heads,
    best_on_held_out,
    cross_entropy_and_gradient,
    held_out_split,
    schedule_factor,
)

ALL = [Head(0.1), Head(0.1, 0.0, "no_affine"), Head(0.1, 0.0, "affine")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(count: int = 3, width: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = generator(1)
    return [
        (
            3 * torch.randn(20, width, generator=draw) + 1,
            torch.randint(0, 4, (20,), generator=draw),
        )
        for _ in range(count)
    ]


def by_torch(heads: Heads, index: int) -> nn.Sequential:
    """The same head as a BatchNorm1d, if it has one, and a Linear."""
    norm = heads.settings[index].norm
    linear = nn.Linear(*heads.weight.shape[::2])
    layers: list[nn.Module] = [linear]
    with torch.no_grad():
        linear.weight.copy_(heads.weight[:, index].T)
        linear.bias.copy_(heads.bias[0, index])
        if norm != "none":
            layers.insert(0, nn.BatchNorm1d(len(heads.weight), affine=norm == "affine"))
        if norm == "affine":
            assert heads.scale is not None
            assert heads.shift is not None
            layers[0].weight.copy_(heads.scale[:, index])
            layers[0].bias.copy_(heads.shift[:, index])
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "settings",
    [ALL, ALL[:1], ALL[1:2], [ALL[2], ALL[0]], [ALL[1]] * 2],
    ids=lambda settings: "+".join(head.norm for head in settings),
)
def test_logits_and_gradients_are_those_of_batch_norm_and_a_linear_layer(settings):
    heads = Heads(6, 4, settings, generator())
    with torch.no_grad():  # away from ones and zeros
        for parameter in heads.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(2)))
    others = [by_torch(heads, index) for index in range(len(settings))]
    for features, labels in batches():
        heads.zero_grad()
        total, losses = heads(features, labels, len(labels))
        total.backward()
        for index, other in enumerate(others):
            other.zero_grad()
            loss = nn.functional.cross_entropy(other(features), labels)
            loss.backward()
            torch.testing.assert_close(losses[index] / len(labels), loss.detach())
            torch.testing.assert_close(heads.weight.grad[:, index], other[-1].weight.grad.T)
            torch.testing.assert_close(heads.bias.grad[0, index], other[-1].bias.grad)
            if settings[index].norm == "affine":
                torch.testing.assert_close(heads.scale.grad[:, index], other[0].weight.grad)
                torch.testing.assert_close(heads.shift.grad[:, index], other[0].bias.grad)
    heads.eval()
    features, _ = batches(1)[0]
    for index, other in enumerate(others):  # running statistics
        torch.testing.assert_close(heads.logits(features)[:, index], other.eval()(features))


def test_scales_of_heads_without_one_get_no_gradient():
    heads = Heads(6, 4, ALL, generator())
    features, labels = batches(1)[0]
    total, _ = heads(features, labels, 20)
    total.backward()
    assert not heads.scale.grad[:, :2].any()
    assert heads.scale.grad[:, 2].all()


def test_the_running_variance_is_unbiased_and_a_batch_of_one_is_possible():
    norm, theirs = FeatureNorm(6), nn.BatchNorm1d(6, affine=False)
    features, _ = batches(1)[0]
    norm(features), theirs(features)
    torch.testing.assert_close(norm.mean, theirs.running_mean)
    torch.testing.assert_close(norm.variance, theirs.running_var)
    assert norm(features[:1]).isfinite().all()


def test_features_of_another_width_and_empty_grids_are_rejected():
    heads = Heads(6, 4, ALL, generator())
    with pytest.raises(UserError, match="same backbone and layer"):
        heads.logits(torch.zeros(2, 5))
    with pytest.raises(UserError, match="expected one or more, all above 0"):
        Heads(6, 4, [], generator())
    with pytest.raises(UserError, match="expected one or more, all above 0"):
        Heads(6, 4, [Head(0.0)], generator())


def test_all_heads_start_from_the_same_small_weights():
    heads = Heads(400, 4, ALL, generator())
    assert torch.equal(heads.weight[:, 0], heads.weight[:, 2])
    assert float(heads.weight[:, 0].detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not heads.bias.any()


def test_the_explicit_gradient_equals_autograd():
    scores = torch.randn(20, 3, 5, generator=generator(), dtype=torch.float64, requires_grad=True)
    labels = torch.arange(20) % 5
    expected = torch.stack(
        [nn.functional.cross_entropy(scores[:, i], labels, reduction="sum") for i in range(3)]
    )
    expected.sum().backward()
    losses, gradient = cross_entropy_and_gradient(scores.detach(), labels)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(gradient, scores.grad)


def test_the_best_head_has_the_most_hits_among_those_that_did_not_diverge():
    infinite = float("inf")
    assert best_on_held_out(torch.tensor([9, 3, 3]), torch.tensor([infinite, 1.0, 1.0])) == 1
    with pytest.raises(UserError, match="all 2 heads diverged"):
        best_on_held_out(torch.tensor([9, 3]), torch.tensor([infinite, infinite]))


def test_a_held_out_split_takes_the_fraction_of_each_class_and_partitions_the_images():
    labels = torch.arange(3).repeat_interleave(torch.tensor([10, 20, 5]))
    kept, held = held_out_split(labels, 0.2, seed=0)
    assert labels[held].bincount().tolist() == [2, 4, 1]
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(35))


def test_every_class_remains_in_the_training_part():
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    kept, _ = held_out_split(labels, 0.9, seed=0)
    assert labels[kept].unique().tolist() == [0, 1, 2]


def test_the_seed_determines_the_held_out_split():
    labels = torch.arange(3).repeat(30)
    first, again, other = (held_out_split(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 1.0, -0.5])
def test_a_fraction_that_holds_out_nothing_or_everything_is_rejected(fraction):
    with pytest.raises(UserError, match=rf"holding out {fraction} of 30 images in 3 classes"):
        held_out_split(torch.arange(3).repeat(10), fraction, seed=0)


def test_schedules():
    def at(schedule, **options):
        return [schedule_factor(schedule, step, 4, **options) for step in range(4)]

    assert at("cosine") == pytest.approx([1, 0.8536, 0.5, 0.1464], abs=1e-4)
    assert at("exponential", final=1e-4) == pytest.approx([1, 0.1, 0.01, 0.001])
    assert at("steps", drops=(0.25, 0.75)) == [1, 0.1, 0.1, 0.01]
