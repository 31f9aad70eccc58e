"""Linear classification with frozen features.

Two routes, named by the card:

- ``cached``: the features of each image are extracted once, without augmentation, and reused in all epochs.
- ``streamed``: augmented images pass through the frozen network in every epoch, as in published protocols.

Many heads are trained at once: all combinations of learning rates, weight decays and normalizations. One of
them is chosen on held-out training images (BYOL, arXiv 2006.07733, appendix C.1). With the cached route, the
chosen head is then trained again on all training images; with the streamed route, where that would take as
long again, it is scored as it is.
"""

import contextlib
import itertools
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.data.transforms import AugmentationOptions, EvaluationTransform, TrainingTransform
from msbreg.run.config import Card, plain
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import LabeledConfig


@dataclass(frozen=True)
class Config(LabeledConfig):
    """Settings of a linear evaluation: fitted on DATA/train, scored on DATA/val."""

    script: ClassVar[str] = "transfer/linear.py"

    output: Path = Path("runs/linear")
    """Folder for record.json, log.txt, the heads, and probe.pth, the chosen head."""
    route: Literal["cached", "streamed"] = "cached"
    """cached: features are extracted once. streamed: augmented images pass through the network in every
    epoch."""
    head: Literal["linear", "attentive"] = "linear"
    """linear, or attentive (streamed): queries attend to the places of an image before the layer."""
    queries: int = 4
    """attentive: number of queries."""
    learning_rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4)
    """Learning rates to choose from, per ``rate_per`` images; the default is BYOL's list."""
    rate_per: int = 256
    """A learning rate is multiplied by batch_size / rate_per; 0 uses it as it is."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays to choose from, of the layer's weight and bias."""
    norms: tuple[Literal["none", "no_affine", "affine"], ...] = ("none",)
    """Normalizations to choose from: no BatchNorm before the layer, one without or one with scale and
    shift."""
    optimizer: Literal["sgd", "adam", "lars"] = "sgd"
    """sgd, adam (PyTorch's defaults) or lars (BYOL's form)."""
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "steps", "exponential"] = "cosine"
    """cosine to 0, steps (x 0.1 at each of ``drops``), or exponential to a ten-thousandth."""
    drops: tuple[float, ...] = ()
    """Epochs after which ``steps`` lowers the learning rate."""
    epochs: int = 80
    """Passes over the training images."""
    batch_size: int = 256
    """Images per step of all processes (BYOL: 1024)."""
    held_out: float = 0.1
    """Fraction of the training images held out to choose a head (BYOL: 10,009 of 1.28 million)."""
    standardize: bool = False
    """cached: standardize the features with the training images' mean and standard deviation, for features
    of unknown scale."""
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    """streamed: random crop and flip of the training images."""
    loading: int = 2
    """streamed: processes that decode and crop images."""

    harmless: ClassVar[frozenset[str]] = frozenset({"loading"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(
                f"learning_rates is {list(self.learning_rates)}; expected numbers above 0"
            )
        if not self.weight_decays or min(self.weight_decays) < 0 or not self.norms:
            raise UserError(
                f"weight_decays is {list(self.weight_decays)} and norms {list(self.norms)}; expected at "
                "least one of each, and numbers of 0 or more"
            )
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.held_out < 1:
            raise UserError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, held_out {self.held_out}; "
                "expected at least 1, at least 1, and a fraction between 0 and 1"
            )
        if self.rate_per < 0 or self.loading < 0:
            raise UserError(
                f"rate_per is {self.rate_per} and loading {self.loading}; expected 0 or more"
            )
        if self.schedule == "steps" and (
            not self.drops or any(not 0 < drop < self.epochs for drop in self.drops)
        ):
            raise UserError(
                f"schedule is steps and drops {list(self.drops)}; expected epochs between 0 and "
                f"{self.epochs}, the epochs of the run. Set them, such as with --drops "
                f"{self.epochs / 3:.4g} {self.epochs * 2 / 3:.4g}, or use --schedule cosine --drops '[]'"
            )
        if self.schedule != "steps" and self.drops:
            raise UserError(
                f"drops is {list(self.drops)}, but the schedule is {self.schedule}; expected --schedule "
                "steps, or no drops: --drops '[]'"
            )
        if self.head == "attentive" and (self.route != "streamed" or self.queries < 1):
            raise UserError(
                f"head is attentive, route {self.route} and queries {self.queries}; expected --route "
                "streamed, because the places of all images take too much space, and at least one query"
            )
        if self.head == "attentive" and (len(self.norms) > 1 or "affine" in self.norms):
            raise UserError(
                f"head is attentive and norms {list(self.norms)}; expected one of none and no_affine"
            )
        if self.features_out is not None and self.route == "streamed":
            raise UserError(
                f"features_out is {self.features_out}, but the route streamed has other features in every "
                "epoch; expected --route cached, or transfer/knn.py --features-out"
            )
        if self.standardize and self.route == "streamed":
            raise UserError(
                "standardize needs the features of all images, which the route streamed does not have; "
                "expected --norms '[no_affine]' instead"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.backbone_interface import TOKENS
from msbreg.backbones.features import feature_batches
from msbreg.backbones.inference import FrozenBackbone
from msbreg.checkpoints.read import read_file
from msbreg.data.images import LabeledImages
from msbreg.data.sources import data_name
from msbreg.run import distributed
from msbreg.run.errors import RunFailed
from msbreg.run.failures import Agreement
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State
from transfer.frozen.attentive import AttentiveHeads
from transfer.frozen.evaluation import (
    FrozenNetwork,
    Labeled,
    Split,
    accuracy_scores,
    evaluate,
    frozen_network,
    labeled_images,
    labeled_splits,
)
from transfer.frozen.feature_cache import BATCH
from transfer.frozen.head_training import (
    CachedFeatures,
    HeadPlan,
    HeadTraining,
    augmented_batches,
    cached_batches,
    moments,
)
from transfer.frozen.heads import Head, Heads, best_on_held_out, held_out_split
from transfer.frozen.linear_probe import FILE, LinearProbe, network_identity, save_probe
from transfer.scoring.scores import DataId

CHECKPOINT = "heads.pth"
KIND = "msbreg-linear"
SAVE_SECONDS = 60.0
ROWS_AT_ONCE = 4096

# The phases of a run, in the order of its checkpoints.
CHOOSING, FITTING, STREAMING = "choosing", "fitting", "streaming"


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; accuracies are in percent."""
    route = {"cached": _cached, "streamed": _streamed}[config.route]
    return evaluate("linear", config, card, route, resume_file=CHECKPOINT)


# ---- Cached features


def _cached(config: Config, job: Job) -> dict[str, Any]:
    """Extract the features of both splits; the rest is done by the main process."""
    job.record.resolve(augmentation=None)
    fitted, tested = labeled_splits(config, job)
    return distributed.from_main(lambda: _fit_cached(config, job, fitted, tested))


def _fit_cached(config: Config, job: Job, fitted: Split, tested: Split) -> dict[str, Any]:
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
        return _train(config, job, training, phase, about)

    # ---- Choose a head on held-out training images.
    settings, choice = head_settings(config), Choice(0, {})
    if len(settings) > 1:
        before = _unfinished(job)
        if before.get("phase") == FITTING:  # chosen before the interruption
            choice = Choice(**before["choice"])
        else:
            kept, held = held_out_split(labels, config.held_out, config.seed)
            heads, losses = fit(kept, settings, CHOOSING, {})
            outputs = _logits(heads, train_features, held)
            choice = choose(config, losses, outputs.argmax(2), labels[held])
    job.record.content["selection"] = selection(config, f"then trained on all {len(labels)}")

    # ---- Train it on all training images; evaluate it on the test split once.
    chosen = [settings[choice.head]]
    heads, losses = fit(torch.arange(len(labels)), chosen, FITTING, vars(choice))
    everything = torch.arange(len(tested.labels))
    outputs = _logits(heads, CachedFeatures(tested.x, job.device, scale), everything)[:, 0]
    _save_probe(job, heads.as_linear(0, scale), tested)
    return _results(config, job, outputs.numpy(), tested, choice, float(losses[0]))


# ---- Augmented images


def _streamed(config: Config, job: Job) -> dict[str, Any]:
    """Train all heads on augmented images; score the chosen one."""
    assert config.data is not None
    train_images, test_images = labeled_images(config, job).values()
    loaded = frozen_network(config, job)
    labels, classes = torch.from_numpy(np.asarray(train_images.labels)), len(train_images.classes)
    settings = head_settings(config)
    kept, held = torch.arange(len(labels)), torch.arange(0)
    if len(settings) > 1:
        kept, held = held_out_split(labels, config.held_out, config.seed)
    used = train_images.subset(kept.numpy())
    augmentation = config.augmentation.over(
        TrainingTransform(crop=loaded.transform.crop, interpolation=loaded.transform.interpolation)
    )
    loaded.backbone.adaptation(augmentation.crop)  # refuses sizes that the network does not take
    job.record.content["augmentation"] = plain(augmentation)
    job.record.resolve(augmentation=augmentation)
    attentive = config.head == "attentive"
    network = loaded.in_use(len(used) * config.epochs, representation=TOKENS if attentive else None)
    before = network.digest()
    generator = torch.Generator().manual_seed(config.seed)
    start = (
        AttentiveHeads(network.width, classes, settings, generator, queries=config.queries)
        if attentive
        else Heads(network.width, classes, settings, generator)
    )
    training = HeadTraining(
        len(used),
        start,
        head_plan(config),
        features_of=network.features,
        batches_of=augmented_batches(
            used,
            augmentation,
            seed=config.seed,
            workers=config.loading,
            device=job.device,
        ),
        device=job.device,
    )
    heads, losses = _train(config, job, training, STREAMING, {})
    if network.digest() != before:
        raise RunFailed("the weights of the frozen network changed during training; this is a bug")

    # ---- The held-out images choose a head; the test images score it, once.
    def outputs_of(images: LabeledImages, label: str) -> Tensor:  # (N, L, C)
        if attentive:
            return _outputs_of_images(network, heads, images, loaded, label)
        x = loaded.features(images, label).x
        return _logits(heads, CachedFeatures(x, job.device), torch.arange(len(images)))

    choice = Choice(0, {})
    if len(held):
        outputs = outputs_of(train_images.subset(held.numpy()), "held-out images")
        choice = choose(config, losses, outputs.argmax(2), labels[held])
    job.record.content["selection"] = selection(config, "scored without training it again")
    outputs = outputs_of(test_images, config.val_split)[:, choice.head]
    identity = DataId(data_name(config.data), config.val_split, test_images.fingerprint)
    tested = Labeled(test_images, identity)
    if distributed.is_main() and not attentive:
        _save_probe(job, heads.as_linear(choice.head), tested)
    return _results(config, job, outputs.numpy(), tested, choice, float(losses[choice.head]))


class _Outputs:
    """The heads' outputs for pixels, where ``feature_batches`` expects a network's features."""

    compiled = False

    def __init__(self, network: FrozenBackbone, heads: Heads) -> None:
        self.network, self.heads = network, heads

    def __call__(self, pixels: Tensor) -> Tensor:  # (B, L C), on the CPU
        with torch.inference_mode():
            return self.heads.logits(self.network.features(pixels)).flatten(1).cpu()


def _outputs_of_images(
    network: FrozenBackbone,
    heads: Heads,
    images: LabeledImages,
    loaded: FrozenNetwork,
    label: str,
) -> Tensor:  # (N, L, C)
    """The outputs for all images; each process computes those of its images."""
    mine = range(distributed.rank(), len(images), distributed.world_size())
    parts = []
    with (
        Progress(f"outputs for {label}", len(mine), unit="images") as progress,
        Agreement(),
        contextlib.closing(
            feature_batches(
                _Outputs(network, heads),
                images,
                mine,
                transform=loaded.transform,
                batch_size=BATCH,
                threads=loaded.settings.threads,
            )
        ) as batches,
    ):
        for first, rows in batches:
            parts.append(torch.from_numpy(rows))
            progress.update(first + len(rows))
    own = torch.cat([torch.empty(0, len(heads.settings) * heads.classes), *parts])
    return distributed.gather_by_index(own, len(images)).unflatten(1, (-1, heads.classes))


# ---- Shared by both routes


@dataclass(frozen=True)
class Choice:
    """Which head was chosen, and the held-out top-1 of each in percent (None if it diverged)."""

    head: int
    held_out_top1: dict[str, float | None]


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


def _logits(
    heads: Heads,
    features: CachedFeatures,
    indices: Tensor,  # (N,)
) -> Tensor:  # (N, L, C)
    with torch.inference_mode():
        parts = [heads.logits(features(part)).cpu() for part in indices.split(ROWS_AT_ONCE)]
    return torch.cat(parts)


def _save_probe(job: Job, layer: tuple[Tensor, Tensor], tested: Labeled) -> None:
    """Write the chosen head, to be applied to other images by transfer/robustness.py."""
    record = job.record.content
    probe = LinearProbe(
        weight=layer[0].numpy(),
        bias=layer[1].numpy(),
        classes=tested.images.classes,
        network=network_identity(record["network"]),
        representation=record["representation"],
        transform=EvaluationTransform(**record["transform"]),
    )
    save_probe(job.output / FILE, probe)


def _results(
    config: Config,
    job: Job,
    outputs: np.ndarray,  # (N, C)
    tested: Labeled,
    choice: Choice,
    final_loss: float,
) -> dict[str, Any]:
    """Scores of the chosen head on the test split; ``final_loss`` is its mean over the last epoch."""
    name = head_names(config)[choice.head]
    several = len(choice.held_out_top1) > 1
    top1, *top5 = accuracy_scores(
        outputs,
        tested,
        name=config.head,
        rules={
            "linear": "linear layer on ",
            "attentive": f"attentive probe with {config.queries} queries on ",
        }[config.head]
        + ("frozen features, " if config.route == "cached" else "features of augmented images, ")
        + ("learning rate chosen on held-out training images" if several else "one learning rate"),
    )
    job.record.content["scores"] = [score.as_dict() for score in (top1, *top5)]
    rates = config.learning_rates
    chosen = rates[choice.head // (len(config.weight_decays) * len(config.norms))]
    results: dict[str, Any] = {
        "top1": top1.value,
        "top1_stderr": top1.stderr,
        **({"top5": top5[0].value} if top5 else {}),
        "learning_rate": chosen,
        "head": name,
        "held_out_top1": choice.held_out_top1,
    }
    log.info("top-1: %.2f %% with learning rate %s", top1.value, name)
    chance = math.log(len(tested.images.classes))  # the loss of equal scores for all classes
    if final_loss > 2 * chance:
        job.warn(
            f"the loss of the last epoch is {final_loss:.3g}, and that of equal scores for all classes is "
            f"{chance:.3g}: the head diverged. Give lower --learning-rates"
        )
    if len(rates) > 1 and chosen in (min(rates), max(rates)):
        job.warn(f"the chosen learning rate {chosen:g} is at the end of the list; extend the list")
    return results


def _train(
    config: Config, job: Job, training: HeadTraining, phase: str, about: dict[str, Any]
) -> tuple[Heads, Tensor]:
    """Train the heads of one phase; continues a run that was interrupted in it."""
    state = State()
    header = {"kind": KIND, "phase": phase, "choice": about}
    checkpoint = Checkpoint(job.output / CHECKPOINT, lambda step: header)
    before = _unfinished(job)
    if before.get("phase") == phase:
        if warning := checkpoint.restore(training, state, before):
            job.warn(warning)
        log.info("continuing %s from step %d of %d", phase, state.step, training.steps)
    plan = Plan(
        steps=training.steps,
        row_every=training.epoch,
        save_seconds=SAVE_SECONDS,
        read_every=1 if job.device.type == "cpu" else min(20, training.epoch),
    )
    label = f"{phase} ({len(training.model.settings)} heads)"
    job.stop.watched = True  # from here on: save first, then stop
    with Progress(label, training.steps, first=state.step, unit="steps") as progress:
        train(
            training,
            training.batches(state.step),
            plan,
            state,
            checkpoint,
            job=job,
            progress=progress,
        )
    job.stop.watched = False
    return training.result()


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
