"""The heads of a linear evaluation, and the choice of one on held-out training images."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transfer.frozen.head_training import CachedFeatures, HeadPlan
from transfer.frozen.heads import Head, Heads, best_on_held_out
from transfer.frozen.linear.linear_config import Config

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Choice:
    """Which head was chosen, and the held-out top-1 of each in percent (None if it diverged)."""

    head: int
    held_out_top1: dict[str, float | None]


@dataclass(frozen=True)
class ChosenHead:
    """What a route returns: the chosen head, and its outputs for the test images.

    Attributes:
        outputs: (N, C) logits of the test images.
        final_loss: mean over the last epoch of its training.
        layer: weight (D, C) and bias (C,) with any normalization folded in; None for an attentive probe.
    """

    choice: Choice
    outputs: np.ndarray
    final_loss: float
    layer: tuple[Tensor, Tensor] | None


def head_settings(config: Config) -> list[Head]:
    """All combinations of learning rates, weight decays and normalizations."""
    factor = config.batch_size / config.rate_per if config.rate_per else 1.0
    return [
        Head(rate * factor, decay, norm)
        for rate, decay, norm in itertools.product(
            config.learning_rates, config.weight_decays, config.norms
        )
    ]


def head_names(config: Config) -> list[str]:
    """A name for each combination, of what the lists have several of.

    >>> head_names(Config(learning_rates=(0.1, 0.3)))
    ['0.1', '0.3']
    >>> head_names(Config(learning_rates=(0.1,), norms=("none", "affine")))
    ['0.1, none', '0.1, affine']
    """
    names = []
    for rate, decay, norm in itertools.product(
        config.learning_rates, config.weight_decays, config.norms
    ):
        parts = [str(rate)]
        parts += [f"decay {decay:g}"] if len(config.weight_decays) > 1 else []
        parts += [norm] if len(config.norms) > 1 else []
        names.append(", ".join(parts))
    return names


def head_plan(config: Config) -> HeadPlan:
    """What all heads have in common."""
    return HeadPlan(
        epochs=config.epochs,
        batch_size=config.batch_size,
        rule=config.optimizer,
        momentum=config.momentum,
        nesterov=config.nesterov and config.optimizer == "sgd",
        schedule=config.schedule,
        drops=config.drops,
        seed=config.seed,
    )


def selection(config: Config, then: str) -> str:
    """How the head was chosen, for the record."""
    if len(head_names(config)) == 1:
        return "nothing is selected: one learning rate was given"
    of = "learning rate" if len(head_names(config)) == len(config.learning_rates) else "head"
    return f"{of} on {round(config.held_out * 100)} % of the training images, held out; {then}"


def choose(
    config: Config,
    final_losses: Tensor,  # (L,)
    found: Tensor,  # (M, L) predicted classes of images held out of the training split
    labels: Tensor,  # (M,)
) -> Choice:
    """The head with the highest held-out accuracy."""
    hits = (found == labels[:, None]).sum(0)
    best = best_on_held_out(hits, final_losses.cpu())
    top1 = {
        name: 100 * int(count) / len(labels) if finite else None
        for name, count, finite in zip(
            head_names(config), hits, final_losses.isfinite().tolist(), strict=True
        )
    }
    return Choice(best, top1)


def logits_of(
    heads: Heads,
    features: CachedFeatures,
    indices: Tensor,  # (N,)
) -> Tensor:  # (N, L, C)
    """The outputs of all heads for these images, on the CPU."""
    with torch.inference_mode():
        parts = [heads.logits(features(part)).cpu() for part in indices.split(ROWS_AT_ONCE)]
    return torch.cat(parts)
