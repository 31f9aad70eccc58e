"""The pre-training trainable: losses computed view by view, the methods, the target network."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import normalize
from msbreg.run.errors import RunFailed
from msbreg.train.loop import Plan
from msbreg.train.state import Checkpoint, State
from pretrain import losses
from pretrain.methods import build_method
from pretrain.methods.method import base_decay, step_noise
from pretrain.recipe import Config, HeadSettings, LossSettings, OptimizerSettings, TargetSettings
from pretrain.training import PreTraining, peak_learning_rate
from pretrain.view_batches import ViewBatch
from tests.reference.losses import byol_loss
from tests.transfer.detectors.toys import fit

CPU = torch.device("cpu")
HEAD = HeadSettings(hidden=16, out=8)


def settings(**changes) -> Config:
    defaults = {"batch_size": 4, "views": 3, "head": HEAD, "epochs": 2, "lambda_s": 4e-3}
    defaults |= {"arch": "resnet18-tiny", "head_norm": "ln"}
    return Config(**defaults | {"loss": LossSettings(singular_input="raw")} | changes)


def training(config: Config) -> PreTraining:
    """Four steps, two per epoch."""
    return PreTraining(build_method(config), config, CPU, steps=4, epoch=2)


def pixels(views: int = 3, images: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (views, images, 3, 16, 16), generator=generator).to(torch.uint8)


def batch(views: Tensor) -> ViewBatch:
    return ViewBatch(list(views), torch.arange(views.shape[1]))


def assert_same_gradients(first: nn.Module, second: nn.Module) -> None:
    """Equal up to the order of float32 sums over 40 layers: 1e-4 of the norm of the gradient."""
    one = torch.cat([p.grad.flatten() for p in first.parameters()])
    other = torch.cat([p.grad.flatten() for p in second.parameters()])
    assert (one - other).norm() <= 1e-4 * other.norm()
    assert other.norm() > 0


def joined(online, target, views, loss):
    """One forward pass per view, then a single backward pass through all of them."""
    predictions = torch.stack([online(normalize(v, CPU)) for v in views])
    with torch.no_grad():
        targets = torch.stack([target(normalize(v, CPU)) for v in views])
    total = loss(predictions, targets, step_noise(0, 0, 4, 8, share="image"))
    total.backward()
    return total


def streamed(config: Config, views: Tensor) -> tuple[PreTraining, nn.Module, dict[str, Tensor]]:
    """One step without the update; returns the trainable, a copy of its online network, and the terms."""
    trained = training(config)
    trained.train_mode()
    again = copy.deepcopy(trained.method.online)
    terms: dict[str, Tensor] = {}
    for loss in trained.losses(trained.model, batch(views), 0):
        loss.total.backward()
        terms = {name: terms.get(name, 0) + value for name, value in loss.terms.items()}
    return trained, again, terms


@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
def test_the_view_by_view_msbreg_loss_has_the_gradient_of_the_full_loss(norm):
    config = settings(lambda_s=0.1, lambda_b=0.7, head_norm=norm)
    trained, again, terms = streamed(config, pixels())
    total = joined(
        again,
        training(config).method.target,
        pixels(),
        lambda p, z, n: losses.msbreg_loss(p, z, n, lambda_s=0.1, lambda_b=0.7).total,
    )
    torch.testing.assert_close(terms["total"], total.detach())
    assert_same_gradients(trained.model, again)


@pytest.mark.parametrize(("reduce", "factor"), [("mean", 1), ("sum", 6)])
def test_the_view_by_view_byol_loss_has_the_gradient_of_the_full_loss(reduce, factor):
    config = settings(method="byol", loss=LossSettings(byol_reduce=reduce))
    trained, again, _ = streamed(config, pixels())
    target = training(config).method.target
    joined(again, target, pixels(), lambda p, z, _: factor * byol_loss(p, z))
    assert_same_gradients(trained.model, again)


def test_excluding_the_own_target_gives_the_gradient_of_byol():
    config = settings(lambda_s=0.0, lambda_b=0.0, loss=LossSettings(include_self=False))
    trained, again, _ = streamed(config, pixels())
    joined(again, training(config).method.target, pixels(), lambda p, z, _: byol_loss(p, z))
    assert_same_gradients(trained.model, again)


@pytest.mark.parametrize("kind", ["l2", "l2_sqrt_d"])
def test_the_covariance_is_computed_from_the_singular_input(kind):
    scale = 1.0 if kind == "l2" else math.sqrt(8)
    config = settings(lambda_s=1.0, lambda_b=0.0, loss=LossSettings(singular_input=kind))

    def loss(p: Tensor, z: Tensor, _: Tensor) -> Tensor:
        unit = nn.functional.normalize(p, dim=-1) * scale
        return losses.centroid_loss(p, z) + losses.singular_value_loss(unit)

    trained, again, _ = streamed(config, pixels())
    joined(again, training(config).method.target, pixels(), loss)
    assert_same_gradients(trained.model, again)


def test_independent_target_views_are_the_last_k_views():
    views = pixels(views=6)
    config = settings(target=TargetSettings(views="independent"), lambda_s=0.0, lambda_b=0.0)
    trained, again, _ = streamed(config, views)
    target = training(config).method.target
    predictions = torch.stack([again(normalize(v, CPU)) for v in views[:3]])
    targets = torch.stack([target(normalize(v, CPU)) for v in views[3:]])
    losses.centroid_loss(predictions, targets.detach()).backward()
    assert_same_gradients(trained.model, again)


def test_the_target_network_receives_no_gradient():
    trained, _, _ = streamed(settings(), pixels())
    assert all(p.grad is None for p in trained.method.target.parameters())


def test_noise_depends_only_on_seed_and_step():
    first = step_noise(0, 7, 4, 8, share="image")
    torch.manual_seed(99)
    assert torch.equal(first, step_noise(0, 7, 4, 8, share="image"))
    assert not torch.equal(first, step_noise(0, 8, 4, 8, share="image"))
    assert not torch.equal(first, step_noise(1, 7, 4, 8, share="image"))


def test_noise_is_one_direction_per_image_or_per_batch():
    assert len(step_noise(0, 0, 4, 8, share="image").unique(dim=0)) == 4
    assert len(step_noise(0, 0, 4, 8, share="batch").unique(dim=0)) == 1


def test_learning_rate_and_decay_scale_with_the_batch():
    config = settings(
        batch_size=512, views=4, optimizer=OptimizerSettings(base_lr=0.15, warmup_epochs=1)
    )
    assert peak_learning_rate(config) == pytest.approx(1.2)  # MSBReg §7.1 with K = 4
    scaled = settings(
        batch_size=512, target=TargetSettings(base_decay=0.996, scale_with_batch=True)
    )
    assert base_decay(scaled) == pytest.approx(0.9995)  # BYOL, appendix G, for batch 512


def run(folder, trained: PreTraining, batches: list[Tensor]) -> State:
    """Train on the batches, two steps per epoch."""
    return fit(trained, map(batch, batches), Plan(steps=len(batches), row_every=2), folder)


def test_an_epoch_reports_the_mean_of_its_steps_and_updates_the_target(tmp_path):
    trained = training(settings())
    before = copy.deepcopy(trained.method.target.state_dict())
    state = run(tmp_path, trained, [pixels(seed=s) for s in range(4)])
    rows = state.curve
    assert [row["epoch"] for row in rows] == [1, 2]
    assert state.step == 4
    expected = rows[0]["centroid"] + 4e-3 * rows[0]["singular_value"] + 0.5 * rows[0]["brownian"]
    assert rows[0]["total"] == pytest.approx(expected, abs=1e-5)
    after = trained.method.target.state_dict()
    assert "projector.0.weight" in [k for k, v in after.items() if not torch.equal(v, before[k])]


def test_with_bias_correction_the_first_target_equals_the_online_network(tmp_path):
    trained = training(settings(target=TargetSettings(bias_correction="adam")))
    run(tmp_path, trained, [pixels()])
    online = dict(trained.method.online.named_parameters())
    for name, value in trained.method.target.named_parameters():
        torch.testing.assert_close(value, online[name])


def test_a_non_finite_loss_stops_training_and_reports_terms_and_step(tmp_path):
    trained = training(settings())
    with torch.no_grad():
        trained.method.online.predictor[3].weight[0, 0] = float("nan")
    words = r"diverged at step 0: total = nan, centroid = nan(.|\n)*--optimizer\.base_lr"
    with pytest.raises(RunFailed, match=words):
        run(tmp_path, trained, [pixels()])


def test_non_finite_weights_of_the_target_network_are_not_saved(tmp_path):
    trained = training(settings())
    checkpoint = Checkpoint(tmp_path / "checkpoint.pth", lambda step: {"step": step})
    checkpoint.save(trained, State())
    with torch.no_grad():
        next(trained.method.target.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(RunFailed, match=r"1 tensor is not finite, starting with target\."):
        checkpoint.save(trained, State())
