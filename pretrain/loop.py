"""The training loop: view-streamed steps, the moving target, and when to look and to save."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msbreg.backbones.resnet import normalize
from msbreg.run import distributed
from msbreg.run.errors import RunFailed
from msbreg.train.optimizers import LARS
from msbreg.train.schedules import target_decay, warmup_cosine
from pretrain.losses import (
    MSBRegLoss,
    brownian_loss,
    centroid_loss,
    other_views,
    pairwise_loss,
    singular_value_loss,
)
from pretrain.networks import Online, Target, update_target
from pretrain.recipe import Config, LossSettings


@dataclass
class State:
    """All that changes while training; what a checkpoint holds and a resumed run starts from.

    Attributes:
        online, target: the networks, on the device.
        step: steps done; the next step's number.
        decay_product: product of all target decays so far, for Adam's bias correction.
        sums: sums of the loss terms over this epoch's steps so far, by name.
        curve: one row per finished epoch.
    """

    online: Online
    target: Target
    optimizer: LARS
    step: int = 0
    decay_product: float = 1.0
    sums: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def peak_learning_rate(config: Config) -> float:
    """base x batch / 256 x K (MSBReg §7.1)."""
    scale = config.views if config.optimizer.scale_by_views else 1
    return config.optimizer.base_lr * config.batch_size / 256 * scale


def base_decay(config: Config) -> float:
    """The target's decay at the start, rescaled from batch 4096 on request (BYOL, appendix G)."""
    if config.target.scale_with_batch:
        return 1 - (1 - config.target.base_decay) * config.batch_size / 4096
    return config.target.base_decay


def step_noise(
    seed: int, step: int, images: int, dimensions: int, *, share: str
) -> Tensor:  # (N, D)
    """The Brownian noise of one step, of the whole batch, the same in every process."""
    entropy = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> 1))
    if share == "batch":
        return torch.randn(1, dimensions, generator=generator).expand(images, -1)
    return torch.randn(images, dimensions, generator=generator)


def view_loss(
    local: Tensor,  # (N / world, D) predictions of one view, this process's images
    targets: Tensor,  # (K, N, D) target projections of the whole batch
    noise: Tensor,  # (N, D)
    *,
    view: int,
    config: Config,
) -> MSBRegLoss:
    """The loss of one view; its mean over the K views is the loss of the step."""
    predictions = distributed.gather(local)[None]  # (1, N, D)
    options = config.loss
    if config.method == "byol":
        attraction = pairwise_loss(predictions, other_views(targets, view))
        pairs = config.views * (config.views - 1)
        total = attraction * (pairs if options.byol_reduce == "sum" else 1)
        with torch.no_grad():  # watched, not minimized
            spread = singular_value_loss(_singular_input(predictions, options))
            drift = brownian_loss(predictions, noise, normalize_noise=options.normalize_noise)
        return MSBRegLoss(total, attraction, spread, drift)
    others = targets if options.include_self else other_views(targets, view)
    attraction = centroid_loss(predictions, others)
    whole = predictions if options.singular_sync else local[None]
    spread = singular_value_loss(_singular_input(whole, options))
    drift = brownian_loss(predictions, noise, normalize_noise=options.normalize_noise)
    total = attraction + config.lambda_s * spread + config.lambda_b * drift
    return MSBRegLoss(total, attraction, spread, drift)


def _singular_input(predictions: Tensor, options: LossSettings) -> Tensor:
    if options.singular_input == "raw":
        return predictions
    unit = F.normalize(predictions, dim=-1)
    return unit if options.singular_input == "l2" else unit * predictions.shape[-1] ** 0.5


def forward_backward(
    online: nn.Module,
    target: nn.Module,
    views: Tensor,  # (K or 2K, B, 3, S, S) uint8; with 2K, the last K are the target's
    noise: Tensor,  # (N, D)
    *,
    config: Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Leave the step's gradient in ``online``; returns the loss and its terms.

    Views pass one by one: BatchNorm sees one view at a time, as in BYOL, and the memory is that of
    one view whatever K. That works because, with the targets known, the loss is a mean over views.
    """
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    sums = {name: torch.zeros((), device=device) for name in MSBRegLoss._fields}
    with torch.no_grad(), autocast:
        projected = [target(normalize(view, device)) for view in views[-config.views :]]
        targets = torch.stack([distributed.gather(z.float()) for z in projected])
    for number, view in enumerate(views[: config.views]):
        last = number == config.views - 1
        with distributed.averaging(online, now=last):
            with autocast:
                prediction = online(normalize(view, device))
            loss = view_loss(prediction.float(), targets, noise, view=number, config=config)
            (loss.total / config.views).backward()
        for name, value in loss._asdict().items():
            sums[name] += value.detach() / config.views
    return sums


def train(
    state: State,
    batches: Iterable[Tensor],  # each (K, B, 3, S, S) uint8
    *,
    config: Config,
    device: torch.device,
    steps: int,
    steps_per_epoch: int,
    each_step: Callable[[State], None],
    each_epoch: Callable[[State, dict[str, Any]], None],
) -> None:
    """Train from ``state.step`` to ``steps``. ``each_step`` may save, and raise to stop.

    Raises:
        RunFailed: the loss is not finite; the message says which term, and at which step.
    """
    wrapped = distributed.data_parallel(state.online)
    peak, decay_base = peak_learning_rate(config), base_decay(config)
    options = config.optimizer
    warmup = round(options.warmup_epochs * steps_per_epoch)
    state.online.train()
    state.target.train()
    for views in batches:
        rate = warmup_cosine(
            state.step,
            steps,
            peak=peak,
            warmup=warmup,
            start=options.warmup_start,
            final=options.final_lr,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        noise = step_noise(
            config.seed,
            state.step,
            config.batch_size,
            config.head.out,
            share=config.loss.noise_share,
        ).to(device)
        state.optimizer.zero_grad()
        terms = forward_backward(wrapped, state.target, views, noise, config=config, device=device)
        _add(state, terms)
        state.optimizer.step()
        decay = target_decay(state.step, steps, base=decay_base)
        if config.target.bias_correction == "adam":
            state.decay_product *= decay
            decay = 1 - (1 - decay) / (1 - state.decay_product)
        update_target(state.target, state.online, decay)
        state.step += 1
        if state.step % steps_per_epoch == 0:
            row: dict[str, Any] = {"epoch": state.step // steps_per_epoch, "step": state.step}
            row |= {name: value / steps_per_epoch for name, value in state.sums.items()}
            row |= {"learning_rate": rate, "target_decay": decay}
            state.sums = {}
            each_epoch(state, row)
        each_step(state)


def _add(state: State, terms: dict[str, Tensor]) -> None:
    values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        shown = ", ".join(f"{name} = {values[name]}" for name in bad)
        raise _diverged(f"the loss is not finite at step {state.step}: {shown}")
    for name, value in values.items():
        state.sums[name] = state.sums.get(name, 0.0) + value


def check_finite(state: State) -> None:
    """Before weights are saved: a last step may spoil them behind a loss that is finite.

    Raises:
        RunFailed: one is not finite, on any process.
    """
    weights = state.online.state_dict() | state.target.state_dict(prefix="target.")
    bad = [n for n, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    everywhere = [name for names in distributed.gather_objects(bad) for name in names]
    if everywhere:
        raise _diverged(
            f"{len(everywhere)} tensors are not finite after step {state.step}, the first "
            f"{everywhere[0]}"
        )


def _diverged(what: str) -> RunFailed:
    return RunFailed(
        f"{what}.\nThe last checkpoint is kept. Try a smaller --optimizer.base_lr or a longer "
        "--optimizer.warmup_epochs, in a new --output."
    )
