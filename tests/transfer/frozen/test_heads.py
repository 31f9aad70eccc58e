"""Training several learning rates at once equals training each alone, and equals autograd."""

import math

import pytest
import torch

from msbreg.run.errors import RunFailed, UserError
from msbreg.train.loop import Plan
from msbreg.train.state import Checkpoint, State
from tests.reference import linear as slow
from tests.transfer.detectors.toys import fit
from transfer.frozen.heads import (
    LinearHeads,
    best_on_held_out,
    cross_entropy_and_gradient,
    held_out_split,
    logits,
)

RATES = (0.01, 0.1, 0.5)
# 150 images: the last batch of an epoch has 22.
SETTINGS: dict[str, int] = {"classes": 5, "epochs": 6, "batch_size": 32, "seed": 7}


@pytest.fixture(scope="module")
def data():
    """150 features of width 16 around the centers of 5 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (150,), generator=generator)
    centers = torch.randn(5, 16, generator=generator)
    return centers[labels] + torch.randn(150, 16, generator=generator), labels


@pytest.fixture
def fit_linear(tmp_path):
    """Train heads to the end with the common training loop."""

    def run(features, labels, **options):
        heads = LinearHeads(features, labels, **options)
        plan = Plan(steps=heads.steps, row_every=heads.epoch)
        fit(heads, heads.batches(0), plan, tmp_path)
        return heads.result()

    return run


def relative_error(ours, expected):
    return float((ours - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"),
    [(0.9, True, 0.0), (0.9, False, 1e-2), (0.0, False, 1e-4)],
)
def test_every_layer_equals_autograd_with_the_sgd_of_torch(
    fit_linear, data, momentum, nesterov, weight_decay
):
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    model = fit_linear(*data, learning_rates=RATES, **options, **SETTINGS)

    def factor(share):
        return (1 + math.cos(math.pi * share)) / 2

    for index, rate in enumerate(RATES):
        layer, loss = slow.fit_linear(
            *data, learning_rate=rate, factor=factor, **options, **SETTINGS
        )
        # 30 steps of float32 sums in a different order: an error of a few 1e-7 each.
        assert relative_error(model.weights[index], layer.weight.detach().T) < 1e-5
        assert relative_error(model.bias[index], layer.bias.detach()) < 1e-5
        assert float(model.final_losses[index]) == pytest.approx(loss, rel=1e-5)


def test_training_learning_rates_together_equals_training_them_one_by_one(fit_linear, data):
    together = fit_linear(*data, learning_rates=RATES, **SETTINGS)
    for index, rate in enumerate(RATES):
        alone = fit_linear(*data, learning_rates=[rate], **SETTINGS)
        # The matrix product is blocked differently, which only changes float32 rounding.
        assert relative_error(together.weights[index], alone.weights[0]) < 1e-5
        assert relative_error(together.bias[index], alone.bias[0]) < 1e-5
        torch.testing.assert_close(
            together.final_losses[index], alone.final_losses[0], rtol=1e-5, atol=0
        )


def test_a_diverging_learning_rate_affects_no_other_and_is_never_chosen(fit_linear, data):
    features, labels = data
    model = fit_linear(features, labels, learning_rates=(1e38, 0.1), **SETTINGS)
    alone = fit_linear(features, labels, learning_rates=(0.1,), **SETTINGS)
    assert model.final_losses[0] == math.inf
    assert relative_error(model.weights[1], alone.weights[0]) < 1e-5
    assert best_on_held_out(model, features, labels) == 1


def test_the_best_rate_has_the_highest_accuracy_and_the_first_wins_ties(fit_linear, data):
    features, labels = data
    model = fit_linear(features, labels, learning_rates=(1e-6, 0.1, 0.1), **SETTINGS)
    assert best_on_held_out(model, features, labels) == 1


def test_training_fails_when_every_learning_rate_diverges(fit_linear, data):
    with pytest.raises(
        RunFailed, match=r"diverged at step 1: loss = inf(.|\n)*lower --learning-rates"
    ):
        fit_linear(*data, learning_rates=(1e38, 3e38), **SETTINGS)


def test_logits_are_computed_layer_by_layer(fit_linear, data):
    features, _ = data
    model = fit_linear(*data, learning_rates=RATES, **SETTINGS)
    expected = [features @ model.weights[index] + model.bias[index] for index in range(3)]
    torch.testing.assert_close(logits(model, features), torch.stack(expected))


def test_the_explicit_gradient_equals_autograd(fit_linear, data):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(20, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = data[1][:20]
    expected = torch.stack(
        [torch.nn.functional.cross_entropy(scores[:, layer], labels) for layer in range(3)]
    )
    expected.sum().backward()
    losses, gradient = cross_entropy_and_gradient(scores.detach(), labels)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(gradient, scores.grad)


def test_the_seed_determines_the_layer(fit_linear, data):
    first, again = (fit_linear(*data, learning_rates=RATES, **SETTINGS) for _ in range(2))
    other = fit_linear(*data, learning_rates=RATES, **(SETTINGS | {"seed": 8}))
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.weights, other.weights)


def test_half_precision_features_train_like_their_float32_copy(fit_linear, data):
    features, labels = data[0].half(), data[1]
    model = fit_linear(features, labels, learning_rates=RATES, **SETTINGS)
    expected = fit_linear(features.float(), labels, learning_rates=RATES, **SETTINGS)
    assert torch.equal(model.weights, expected.weights)


@pytest.mark.parametrize("stop_at", [3, 5, 13])
def test_interrupted_heads_end_bit_for_bit_equal_to_uninterrupted_ones(tmp_path, data, stop_at):
    def heads():
        return LinearHeads(*data, learning_rates=(0.1, 1e38), **SETTINGS)

    class Stopped(Exception):
        pass

    def some(batches):
        for number, batch in enumerate(batches):
            if number == stop_at:
                raise Stopped
            yield batch

    whole, broken, again = heads(), heads(), heads()
    plan = Plan(steps=whole.steps, row_every=whole.epoch, save_every=stop_at)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    fit(whole, whole.batches(0), plan, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(broken, some(broken.batches(0)), plan, tmp_path / "broken")
    checkpoint = Checkpoint(tmp_path / "broken" / "checkpoint.pth", lambda step: {})
    state = State()
    content = torch.load(checkpoint.path, weights_only=True)
    assert checkpoint.restore(again, state, content) is None
    assert state.step == stop_at
    for step, batch in enumerate(again.batches(state.step), state.step):
        again.optimizer.param_groups[0]["lr"] = again.learning_rates(step)[0]
        again.optimizer.zero_grad()
        (loss,) = again.losses(again.model, batch, step)
        loss.total.backward()
        again.optimizer.step()
        again.after_step(step)
    expected, found = whole.result(), again.result()
    assert torch.equal(expected.weights[0], found.weights[0])
    assert torch.equal(expected.final_losses, found.final_losses)
    assert expected.final_losses[1] == torch.inf


def test_a_held_out_split_takes_the_fraction_of_each_class_and_partitions_the_images():
    labels = torch.tensor([0] * 100 + [3] * 40 + [1] * 5)
    labels = labels[torch.randperm(145, generator=torch.Generator().manual_seed(2))]
    fit, held_out = held_out_split(labels, 0.1, seed=0)
    assert torch.equal(torch.cat([fit, held_out]).sort().values, torch.arange(145))
    assert labels[held_out].bincount().tolist() == [10, 1, 0, 4]  # 0.5 rounds up


def test_every_class_remains_in_the_training_part():
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    fit, held_out = held_out_split(labels, 0.99, seed=0)
    assert labels[fit].tolist() == [0, 1, 2]
    assert len(held_out) == 3


def test_the_seed_determines_the_held_out_split():
    labels = torch.arange(5).repeat(40)
    first, again, other = (held_out_split(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 1.0])
def test_a_fraction_that_holds_out_nothing_or_everything_is_rejected(fraction):
    with pytest.raises(UserError, match=rf"holding out {fraction} of 30 images in 3 classes"):
        held_out_split(torch.arange(3).repeat(10), fraction, seed=0)


def test_invalid_features_labels_and_sizes_are_rejected(fit_linear, data):
    features, labels = data
    with pytest.raises(UserError, match=r"labels are in 0..4; expected 0..2"):
        fit_linear(features, labels, learning_rates=RATES, **(SETTINGS | {"classes": 3}))
    with pytest.raises(UserError, match="150 of 150 features are not finite"):
        fit_linear(features / 0, labels, learning_rates=RATES, **SETTINGS)
    with pytest.raises(UserError, match="expected learning rates above 0"):
        fit_linear(features, labels, learning_rates=(), **SETTINGS)
    model = fit_linear(features, labels, learning_rates=RATES, **SETTINGS)
    with pytest.raises(UserError, match="same backbone and layer"):
        logits(model, features[:, :3])
