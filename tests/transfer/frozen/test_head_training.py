"""Training many heads equals training each alone, and equals autograd with PyTorch's optimizer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from msbreg.data.folder import list_images
from msbreg.data.transforms import TrainingTransform
from msbreg.run.errors import RunFailed, UserError
from msbreg.train.loop import Plan
from msbreg.train.state import Checkpoint, State
from tests.reference import linear as slow
from tests.transfer.detectors.toys import fit
from transfer.frozen.feature_store import Rows
from transfer.frozen.head_training import (
    CachedFeatures,
    HeadPlan,
    HeadTraining,
    augmented_batches,
    cached_batches,
    moments,
)
from transfer.frozen.heads import Head, Heads, best_on_held_out

CPU = torch.device("cpu")
RATES = (0.01, 0.1, 0.5)
PLAN = HeadPlan(epochs=6, batch_size=32, seed=7)  # 150 images: the last batch of an epoch has 22


@pytest.fixture(scope="module")
def data():
    """150 features of width 16 around the centers of 5 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (150,), generator=generator)
    centers = torch.randn(5, 16, generator=generator)
    return centers[labels] + torch.randn(150, 16, generator=generator), labels


def heads_of(width, classes, settings, seed=0) -> Heads:
    return Heads(width, classes, settings, torch.Generator().manual_seed(seed))


def training_of(data, settings, plan=PLAN) -> HeadTraining:
    features, labels = data
    return HeadTraining(
        len(labels),
        heads_of(features.shape[1], 5, settings, plan.seed),
        plan,
        features_of=CachedFeatures(features.numpy(), CPU),
        batches_of=cached_batches(labels),
        device=CPU,
    )


@pytest.fixture
def trained(tmp_path):
    """Train heads to the end with the common training loop."""

    def run(data, settings, plan=PLAN):
        training = training_of(data, settings, plan)
        loop = Plan(steps=training.steps, row_every=training.epoch)
        fit(training, training.batches(0), loop, tmp_path)
        return training.result()

    return run


def with_rates(*rates: float) -> list[Head]:
    return [Head(rate) for rate in rates]


def relative_error(ours, expected):
    return float((ours.detach() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"),
    [(0.9, True, 0.0), (0.9, False, 1e-2), (0.0, False, 1e-4)],
)
def test_every_head_equals_autograd_with_the_sgd_of_torch(
    trained, data, momentum, nesterov, weight_decay
):
    plan = replace(PLAN, momentum=momentum, nesterov=nesterov)
    heads, losses = trained(data, [Head(rate, weight_decay) for rate in RATES], plan)
    for index, rate in enumerate(RATES):
        layer, loss = slow.fit_linear(
            *data,
            classes=5,
            learning_rate=rate,
            epochs=6,
            batch_size=32,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            factor=lambda share: (1 + math.cos(math.pi * share)) / 2,
            seed=7,
        )
        # 30 steps of float32 sums in a different order: an error of a few 1e-7 each.
        assert relative_error(heads.weight[:, index], layer.weight.detach().T) < 1e-5
        assert relative_error(heads.bias[0, index], layer.bias.detach()) < 1e-5
        assert float(losses[index]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lars"])
def test_heads_trained_together_equal_heads_trained_one_by_one(trained, data, rule):
    settings = [
        Head(0.1),
        Head(0.5, 1e-3, "affine"),
        Head(0.01, 0.0, "no_affine"),
    ]
    plan = replace(PLAN, rule=rule, nesterov=False, epochs=2)
    together, losses = trained(data, settings, plan)
    for index, head in enumerate(settings):
        alone, loss = trained(data, [head], plan)
        # The matrix product is blocked differently, which only changes float32 rounding.
        assert relative_error(together.weight[:, index], alone.weight[:, 0].detach()) < 1e-4
        torch.testing.assert_close(losses[index], loss[0], rtol=1e-4, atol=0)


def test_a_diverging_head_affects_no_other_and_is_never_chosen(trained, data):
    heads, losses = trained(data, with_rates(1e38, 0.1))
    alone, _ = trained(data, with_rates(0.1))
    assert losses[0] == math.inf
    assert relative_error(heads.weight[:, 1], alone.weight[:, 0].detach()) < 1e-5
    assert best_on_held_out(torch.tensor([150, 1]), losses) == 1


def test_training_fails_when_every_head_diverges(trained, data):
    with pytest.raises(
        RunFailed, match=r"diverged at step 1: loss = inf(.|\n)*lower --learning-rates"
    ):
        trained(data, with_rates(1e38, 3e38))


def test_the_seed_determines_the_heads(trained, data):
    first, again = (trained(data, with_rates(*RATES))[0] for _ in range(2))
    other, _ = trained(data, with_rates(*RATES), replace(PLAN, seed=8))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_impossible_sizes_are_rejected(data):
    with pytest.raises(UserError, match="epochs is 0 and batch_size 32; expected at least 1"):
        training_of(data, with_rates(0.1), replace(PLAN, epochs=0))


@pytest.mark.parametrize("stop_at", [3, 5, 13])
def test_interrupted_heads_end_bit_for_bit_equal_to_uninterrupted_ones(tmp_path, data, stop_at):
    settings = [Head(0.1, 1e-3, "affine"), Head(1e38)]

    class Stopped(Exception):
        pass

    def some(batches):
        for number, batch in enumerate(batches):
            if number == stop_at:
                raise Stopped
            yield batch

    whole, broken, again = (training_of(data, settings) for _ in range(3))
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
        for group, rate in zip(
            again.optimizer.param_groups, again.learning_rates(step), strict=True
        ):
            group["lr"] = rate
        again.optimizer.zero_grad()
        (loss,) = again.losses(again.model, batch, step)
        loss.total.backward()
        again.optimizer.step()
        again.after_step(step)
    (expected, wanted_losses), (found, losses) = whole.result(), again.result()
    for name in ("weight", "scale", "shift"):
        assert torch.equal(getattr(expected, name)[:, 0], getattr(found, name)[:, 0])
    assert torch.equal(expected.norm.variance, found.norm.variance)
    assert torch.equal(wanted_losses, losses)
    assert losses[1] == torch.inf


# ---- Features


def test_moments_of_blocks_are_those_of_the_whole():
    x = np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32) * 3 + 100
    x[:, 4] = 7
    mean, deviation = moments(Rows([x[:300], x[300:600], x[600:900], x[900:]]), rows_at_once=64)
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(deviation[:4], x[:, :4].std(0, ddof=1, dtype=np.float64), rtol=1e-6)
    assert deviation[4] == pytest.approx(1e-5)  # a constant dimension does not become infinite


def test_cached_features_are_read_by_index_and_standardized():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    plain = CachedFeatures(Rows([x[:4], x[4:]]), CPU)
    assert plain(torch.tensor([5, 0])).tolist() == [[10, 11], [0, 1]]
    scaled = CachedFeatures(x, CPU, (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])))
    assert scaled(torch.tensor([1])).tolist() == [[0.5, 0.25]]


def some_batches(images, *, workers: int = 0, seed: int = 0, first_step: int = 0):
    training = HeadTraining(
        len(images),
        heads_of(3, 2, with_rates(0.1)),
        HeadPlan(epochs=2, batch_size=4),
        features_of=lambda pixels: pixels,
        batches_of=augmented_batches(
            images, TrainingTransform(crop=8), seed=seed, workers=workers, device=CPU
        ),
        device=CPU,
    )
    return list(training.batches(first_step))


def test_augmented_batches_do_not_depend_on_workers_or_the_first_step(make_folder):
    images = list_images(make_folder(train=5) / "train")  # 10 images: batches of 4, 4, 2
    alone = some_batches(images)
    assert [len(batch.labels) for batch in alone] == [4, 4, 2] * 2
    for other in (some_batches(images, workers=2), alone[:2] + some_batches(images, first_step=2)):
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(alone, other, strict=True))
        assert all(torch.equal(a.labels, b.labels) for a, b in zip(alone, other, strict=True))


def test_images_are_augmented_anew_in_every_epoch_and_for_every_seed(make_folder):
    images = list_images(make_folder(train=2, side=40) / "train")
    first, second = some_batches(images)
    (other, _) = some_batches(images, seed=1)

    def sums(batch):
        return sorted(batch.inputs.float().sum((1, 2, 3)).tolist())

    assert sums(first) != sums(second)
    assert sums(first) != sums(other)
    assert first.inputs.shape == (4, 3, 8, 8)
