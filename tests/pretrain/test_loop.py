import copy
import math

import pytest
import torch
from pretrain.loop import (
    State,
    base_decay,
    check_finite,
    forward_backward,
    peak_learning_rate,
    step_noise,
    train,
)
from torch import Tensor, nn

from msbreg.backbones.resnet import normalize
from msbreg.run.errors import RunFailed
from msbreg.train.optimizers import LARS, lars_groups
from pretrain import losses
from pretrain.networks import build_networks
from pretrain.recipe import Config, HeadSettings, LossSettings, OptimizerSettings, TargetSettings

CPU = torch.device("cpu")
HEAD = HeadSettings(hidden=16, out=8)


def settings(**changes) -> Config:
    defaults = {"batch_size": 4, "views": 3, "head": HEAD, "epochs": 2, "lambda_s": 4e-3}
    return Config(**defaults | {"loss": LossSettings(singular_input="raw")} | changes)


def networks(norm: str = "ln"):
    return build_networks("resnet18-tiny", hidden=16, out=8, norm=norm, seed=0)


def pixels(views: int = 3, images: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (views, images, 3, 16, 16), generator=generator).to(torch.uint8)


def assert_same_gradients(first: nn.Module, second: nn.Module) -> None:
    """Up to float32 sums in another order: 1e-4 of the whole gradient's length, over 40 layers."""
    one = torch.cat([p.grad.flatten() for p in first.parameters()])
    other = torch.cat([p.grad.flatten() for p in second.parameters()])
    assert (one - other).norm() <= 1e-4 * other.norm()
    assert other.norm() > 0


def joined(online, target, views, noise, loss):
    """All views in memory at once, each through the networks on its own, and one backward pass."""
    predictions = torch.stack([online(normalize(v, CPU)) for v in views])
    with torch.no_grad():
        targets = torch.stack([target(normalize(v, CPU)) for v in views])
    total = loss(predictions, targets, noise)
    total.backward()
    return total


@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
def test_streaming_the_views_gives_the_gradient_of_the_whole_msbreg_loss(norm):
    online, target = networks(norm)
    again = copy.deepcopy(online)
    noise = step_noise(0, 0, 4, 8, share="image")
    config = settings(lambda_s=0.1, lambda_b=0.7)
    terms = forward_backward(online, target, pixels(), noise, config=config, device=CPU)
    total = joined(
        again,
        target,
        pixels(),
        noise,
        lambda p, z, n: losses.msbreg_loss(p, z, n, lambda_s=0.1, lambda_b=0.7).total,
    )
    torch.testing.assert_close(terms["total"], total.detach())
    assert_same_gradients(online, again)


@pytest.mark.parametrize(("reduce", "factor"), [("mean", 1), ("sum", 6)])
def test_streaming_the_views_gives_the_gradient_of_the_whole_byol_loss(reduce, factor):
    online, target = networks()
    again = copy.deepcopy(online)
    noise = step_noise(0, 0, 4, 8, share="image")
    config = settings(method="byol", loss=LossSettings(byol_reduce=reduce))
    forward_backward(online, target, pixels(), noise, config=config, device=CPU)
    joined(again, target, pixels(), noise, lambda p, z, _: factor * losses.byol_loss(p, z))
    assert_same_gradients(online, again)


def test_without_itself_a_view_has_the_gradient_of_byol_plus_the_other_terms():
    online, target = networks()
    again = copy.deepcopy(online)
    noise = step_noise(0, 0, 4, 8, share="image")
    config = settings(lambda_s=0.0, lambda_b=0.0, loss=LossSettings(include_self=False))
    forward_backward(online, target, pixels(), noise, config=config, device=CPU)
    joined(again, target, pixels(), noise, lambda p, z, _: losses.byol_loss(p, z))
    assert_same_gradients(online, again)


@pytest.mark.parametrize("kind", ["l2", "l2_sqrt_d"])
def test_the_singular_input_is_what_the_covariance_is_of(kind):
    online, target = networks()
    scale = 1.0 if kind == "l2" else math.sqrt(8)
    again = copy.deepcopy(online)
    noise = step_noise(0, 0, 4, 8, share="image")
    config = settings(lambda_s=1.0, lambda_b=0.0, loss=LossSettings(singular_input=kind))

    def loss(p: Tensor, z: Tensor, _: Tensor) -> Tensor:
        unit = nn.functional.normalize(p, dim=-1) * scale
        return losses.centroid_loss(p, z) + losses.singular_value_loss(unit)

    forward_backward(online, target, pixels(), noise, config=config, device=CPU)
    joined(again, target, pixels(), noise, loss)
    assert_same_gradients(online, again)


def test_independent_target_views_are_the_last_k():
    online, target = networks()
    again = copy.deepcopy(online)
    noise = step_noise(0, 0, 4, 8, share="image")
    views = pixels(views=6)
    config = settings(target=TargetSettings(views="independent"), lambda_s=0.0, lambda_b=0.0)
    forward_backward(online, target, views, noise, config=config, device=CPU)
    predictions = torch.stack([again(normalize(v, CPU)) for v in views[:3]])
    targets = torch.stack([target(normalize(v, CPU)) for v in views[3:]])
    losses.centroid_loss(predictions, targets.detach()).backward()
    assert_same_gradients(online, again)


def test_the_target_network_gets_no_gradient():
    online, target = networks()
    forward_backward(
        online,
        target,
        pixels(),
        step_noise(0, 0, 4, 8, share="image"),
        config=settings(),
        device=CPU,
    )
    assert all(p.grad is None for p in target.parameters())


def test_noise_is_a_function_of_seed_and_step_alone():
    first = step_noise(0, 7, 4, 8, share="image")
    torch.manual_seed(99)
    assert torch.equal(first, step_noise(0, 7, 4, 8, share="image"))
    assert not torch.equal(first, step_noise(0, 8, 4, 8, share="image"))
    assert not torch.equal(first, step_noise(1, 7, 4, 8, share="image"))


def test_noise_is_one_direction_an_image_or_one_a_batch():
    assert len(step_noise(0, 0, 4, 8, share="image").unique(dim=0)) == 4
    assert len(step_noise(0, 0, 4, 8, share="batch").unique(dim=0)) == 1


def test_learning_rate_and_decay_follow_the_batch():
    config = settings(
        batch_size=512, views=4, optimizer=OptimizerSettings(base_lr=0.15, warmup_epochs=1)
    )
    assert peak_learning_rate(config) == pytest.approx(1.2)  # MSBReg §7.1 with K = 4
    scaled = settings(
        batch_size=512, target=TargetSettings(base_decay=0.996, scale_with_batch=True)
    )
    assert base_decay(scaled) == pytest.approx(0.9995)  # BYOL, appendix G, for batch 512


def run(state: State, config: Config, batches: list[Tensor], rows: list) -> None:
    train(
        state,
        batches,
        config=config,
        device=CPU,
        steps=4,
        steps_per_epoch=2,
        each_step=lambda _: None,
        each_epoch=lambda _, row: rows.append(row),
    )


def new_state(config: Config) -> State:
    online, target = networks()
    groups = lars_groups(online, weight_decay=config.optimizer.weight_decay)
    return State(online, target, LARS(groups, lr=0.0))


def test_an_epoch_reports_the_mean_of_its_steps_and_the_target_follows():
    config, rows = settings(), []
    state = new_state(config)
    before = copy.deepcopy(state.target.state_dict())
    run(state, config, [pixels(seed=s) for s in range(4)], rows)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert state.step == 4
    expected = rows[0]["centroid"] + 4e-3 * rows[0]["singular_value"] + 0.5 * rows[0]["brownian"]
    assert rows[0]["total"] == pytest.approx(expected, abs=1e-5)
    moved = [k for k, v in state.target.state_dict().items() if not torch.equal(v, before[k])]
    assert "projector.0.weight" in moved


def test_adams_bias_correction_makes_the_first_target_the_online_network():
    config = settings(target=TargetSettings(bias_correction="adam"))
    state = new_state(config)
    run(state, config, [pixels()], [])
    online = dict(state.online.named_parameters())
    for name, value in state.target.named_parameters():
        torch.testing.assert_close(value, online[name])


def test_a_loss_that_is_not_finite_stops_and_names_the_term_and_the_step():
    config = settings()
    state = new_state(config)
    with torch.no_grad():
        state.online.predictor[3].weight[0, 0] = float("nan")
    with pytest.raises(RunFailed, match=r"not finite at step 0: total = nan, centroid = nan"):
        run(state, config, [pixels()], [])


def test_spoiled_weights_are_not_saved():
    state = new_state(settings())
    check_finite(state)
    with torch.no_grad():
        next(state.target.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(
        RunFailed, match=r"1 tensors are not finite after step 0, the first target\."
    ):
        check_finite(state)
