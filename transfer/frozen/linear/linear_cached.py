"""The cached route of the linear protocol: features without augmentation, extracted once.

A head is chosen on held-out training images, then trained again on all of them.
"""

from typing import Any

import torch
from torch import Tensor

from msbreg.run.job import Job
from transfer.frozen.evaluation import Split
from transfer.frozen.head_training import CachedFeatures, HeadTraining, cached_batches, moments
from transfer.frozen.heads import Head, Heads, held_out_split
from transfer.frozen.linear.head_choice import (
    Choice,
    ChosenHead,
    choose,
    head_plan,
    head_settings,
    logits_of,
    selection,
)
from transfer.frozen.linear.head_phases import CHOOSING, FITTING, train_phase, unfinished
from transfer.frozen.linear.linear_config import Config


def fit_cached(config: Config, job: Job, fitted: Split, tested: Split) -> ChosenHead:
    """Choose a head, train it on all images of ``fitted``, and apply it to those of ``tested``."""
    labels, classes = torch.from_numpy(fitted.labels), len(fitted.images.classes)
    scale = None
    if config.standardize:
        mean, deviation = moments(fitted.x)
        scale = mean.to(job.device), deviation.to(job.device)
    train_features = CachedFeatures(fitted.x, job.device, scale)

    def fit(
        indices: Tensor, heads: list[Head], phase: str, about: dict[str, Any]
    ) -> tuple[Heads, Tensor]:
        generator = torch.Generator().manual_seed(config.seed)
        training = HeadTraining(
            len(indices),
            Heads(fitted.x.shape[1], classes, heads, generator),
            head_plan(config),
            features_of=lambda chosen: train_features(indices[chosen]),
            batches_of=cached_batches(labels[indices]),
            device=job.device,
        )
        return train_phase(job, training, phase, about)

    # ---- Choose a head on held-out training images.
    settings, choice = head_settings(config), Choice(0, {})
    if len(settings) > 1:
        before = unfinished(job)
        if before.get("phase") == FITTING:  # chosen before the interruption
            choice = Choice(**before["choice"])
        else:
            kept, held = held_out_split(labels, config.held_out, config.seed)
            heads, losses = fit(kept, settings, CHOOSING, {})
            outputs = logits_of(heads, train_features, held)
            choice = choose(config, losses, outputs.argmax(2), labels[held])
    job.record.content["selection"] = selection(config, f"then trained on all {len(labels)}")

    # ---- Train it on all training images; evaluate it on the test split once.
    chosen = [settings[choice.head]]
    heads, losses = fit(torch.arange(len(labels)), chosen, FITTING, vars(choice))
    everything = torch.arange(len(tested.labels))
    outputs = logits_of(heads, CachedFeatures(tested.x, job.device, scale), everything)[:, 0]
    return ChosenHead(choice, outputs.numpy(), float(losses[0]), heads.as_linear(0, scale))
