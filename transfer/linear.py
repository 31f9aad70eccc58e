"""Linear classification with cached frozen features.

Linear layers without normalization are trained by SGD for several learning rates at once. The learning
rate is chosen on held-out training images; a layer is then trained with it on all of them (BYOL, arXiv
2006.07733, appendix C.1, but without augmentation: the features of each image are extracted once).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import LabeledConfig


@dataclass(frozen=True)
class Config(LabeledConfig):
    """Settings of a linear evaluation: fitted on DATA/train, scored on DATA/val."""

    script: ClassVar[str] = "transfer/linear.py"

    output: Path = Path("runs/linear")
    """Folder for record.json and log.txt."""
    learning_rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4)
    """Learning rates to choose from, per 256 images; the default is BYOL's list."""
    epochs: int = 80
    """Passes over the training features."""
    batch_size: int = 256
    """Images per step (BYOL: 1024)."""
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    held_out: float = 0.1
    """Fraction of the training images held out to choose the learning rate (BYOL: 10,009 of 1.28 million)."""
    standardize: bool = False
    """Standardize the features with the training images' mean and standard deviation, like a BatchNorm
    without affine parameters before the layer; for features of unknown scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(
                f"learning_rates is {list(self.learning_rates)}; expected numbers above 0"
            )
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.held_out < 1:
            raise UserError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, held_out {self.held_out}; "
                "expected at least 1, at least 1, and a fraction between 0 and 1"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np
import torch
from torch import Tensor

from msbreg.checkpoints.read import read_file
from msbreg.run import distributed
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State
from transfer.frozen.evaluation import Split, accuracy_scores, evaluate, labeled_splits
from transfer.frozen.heads import LinearHeads, LinearModel, best_on_held_out, held_out_split, logits
from transfer.scoring.classification import top_k_accuracy

CHECKPOINT = "heads.pth"
KIND = "msbreg-linear"
FITTING = "fitting"
SAVE_SECONDS = 60.0


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; accuracies are in percent."""
    return evaluate("linear", config, card, _run, resume_file=CHECKPOINT)


def _run(config: Config, job: Job) -> dict[str, Any]:
    # ---- Extract the features of both splits; the rest is done by the main process.
    fitted, tested = labeled_splits(config, job)
    return distributed.from_main(lambda: _fit_and_score(config, job, fitted, tested))


def _fit_and_score(config: Config, job: Job, fitted: Split, tested: Split) -> dict[str, Any]:
    classes = len(fitted.images.classes)
    train, test = (torch.from_numpy(np.array(split.x)).to(job.device) for split in (fitted, tested))
    if config.standardize:
        mean, std = train.mean(0), train.std(0).clamp_min(1e-5)
        train, test = (train - mean) / std, (test - mean) / std

    # ---- Choose the learning rate on held-out training images.
    labels = torch.from_numpy(fitted.labels).to(job.device)
    chosen = config.learning_rates[0]
    held: dict[str, float | None] = {}
    if len(config.learning_rates) > 1:
        before = _unfinished(job)
        if before.get("phase") == FITTING:  # chosen before the interruption
            chosen, held = before["choice"]["learning_rate"], before["choice"]["held_out_top1"]
        else:
            chosen, held = _choose(config, job, train, labels, classes)
        job.record.content["selection"] = (
            f"learning rate on {round(config.held_out * 100)} % of the training images, held out; "
            f"then trained on all {len(labels)}"
        )
    else:
        job.record.content["selection"] = "nothing is selected: one learning rate was given"

    # ---- Train on all training images; evaluate on the test split once.
    choice = {"learning_rate": chosen, "held_out_top1": held}
    model = _fit(config, job, train, labels, classes, (chosen,), FITTING, choice)
    outputs = logits(model, test)[0].cpu().numpy()
    top1, *top5 = accuracy_scores(
        outputs,
        tested,
        name="linear",
        rules="linear layer on frozen features, "
        + ("learning rate chosen on held-out training images" if held else "one learning rate"),
    )
    job.record.content["scores"] = [score.as_dict() for score in (top1, *top5)]
    results: dict[str, Any] = {
        "top1": top1.value,
        "top1_stderr": top1.stderr,
        **({"top5": top5[0].value} if top5 else {}),
        "learning_rate": chosen,
        "held_out_top1": held,
    }
    log.info("top-1: %.2f %% with learning rate %g", top1.value, chosen)
    if len(held) > 1 and chosen in (min(config.learning_rates), max(config.learning_rates)):
        job.warn(f"the chosen learning rate {chosen:g} is at the end of the list; extend the list")
    return results


def _choose(
    config: Config,
    job: Job,
    features: Tensor,  # (N, D)
    labels: Tensor,  # (N,)
    classes: int,
) -> tuple[float, dict[str, float | None]]:
    """The best learning rate, and the held-out top-1 of each in percent (None if it diverged)."""
    fit_index, held_index = held_out_split(labels, config.held_out, config.seed)
    x, y = features[held_index], labels[held_index]
    rates = config.learning_rates
    tried = _fit(
        config, job, features[fit_index], labels[fit_index], classes, rates, "choosing", {}
    )
    best = best_on_held_out(tried, x, y)
    top1 = {
        str(rate): top_k_accuracy(scores.cpu().numpy(), y.cpu().numpy(), 1) if finite else None
        for rate, scores, finite in zip(
            rates, logits(tried, x), tried.final_losses.isfinite(), strict=True
        )
    }
    return rates[best], top1


def _fit(
    config: Config,
    job: Job,
    features: Tensor,  # (N, D)
    labels: Tensor,  # (N,)
    classes: int,
    rates: tuple[float, ...],
    phase: str,
    choice: dict[str, Any],
) -> LinearModel:
    """Train one layer per learning rate; continues a run that was interrupted in this phase."""
    heads = LinearHeads(
        features,
        labels,
        classes=classes,
        learning_rates=[rate * config.batch_size / 256 for rate in rates],
        epochs=config.epochs,
        batch_size=config.batch_size,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )
    state = State()
    about = {"kind": KIND, "phase": phase, "choice": choice}
    checkpoint = Checkpoint(job.output / CHECKPOINT, lambda step: about)
    before = _unfinished(job)
    if before.get("phase") == phase:
        checkpoint.restore(heads, state, before)
        log.info("continuing %s from step %d of %d", phase, state.step, heads.steps)
    plan = Plan(
        steps=heads.steps,
        row_every=heads.epoch,
        save_seconds=SAVE_SECONDS,
        read_every=1 if features.device.type == "cpu" else heads.epoch,
    )
    label = f"{phase} ({len(rates)} learning rates)"
    job.stop.watched = True  # from here on: save first, then stop
    with Progress(label, heads.steps, first=state.step, unit="steps") as progress:
        train(
            heads,
            heads.batches(state.step),
            plan,
            state,
            checkpoint,
            job=job,
            progress=progress,
        )
    job.stop.watched = False
    return heads.result()


def _unfinished(job: Job) -> dict[str, Any]:
    """The checkpoint of an interrupted run with the same settings; empty if there is none."""
    path = job.output / CHECKPOINT
    if not (job.resumed and path.exists()):
        return {}
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is not a checkpoint of transfer/linear.py; move the file away or give another --output"
        )
    return content


if __name__ == "__main__":
    main(run, *OPTIONS)
