"""Classification by fine-tuning: with 1 % or 10 % of ImageNet's labels, or on any other data set.

A linear layer is put on the backbone, and both are trained on augmented images (or only the layer, with
``--freeze encoder``). If the settings list several learning rates, weight decays or numbers of epochs, each
combination is trained without a part of the training images and scored on it; the best one is then trained on
all training images. The test images are scored once, at the end. After an interruption (Ctrl-C, SIGTERM, a
crash), the same command continues from the last checkpoint.
"""

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.data.transforms import TrainingTransform
from msbreg.run.config import Card, plain
from msbreg.run.errors import Interrupted, UserError
from msbreg.run.options import main, read_options
from transfer.finetuning.fine_tuning_config import Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.features import outputs_of_all
from msbreg.backbones.resnet import normalize
from msbreg.backbones.spec import Normalization
from msbreg.data.images import LabeledImages, balanced_subset
from msbreg.data.sources import data_name
from msbreg.data.transforms import EvaluationTransform
from msbreg.run import distributed
from msbreg.run.job import Job, log, seed_everything
from msbreg.run.progress import Progress
from msbreg.train.health import Diverged
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State, require_same_data, unfinished_run
from transfer.finetuning.classifier_training import (
    Candidate,
    Classifier,
    ClassifierTraining,
    candidates_of,
)
from transfer.frozen.evaluation import (
    Labeled,
    accuracy_scores,
    best_of,
    evaluate,
    labeled_images,
    mean_class_score,
)
from transfer.frozen.frozen_network import chosen_representation, load_network, network_transform
from transfer.frozen.head_training import augmented_batches
from transfer.frozen.heads import held_out_split
from transfer.scoring.classification import mean_class_accuracy, top_k_accuracy
from transfer.scoring.scores import DataId
from transfer.verdicts.measured import record_scores

CHECKPOINT = "checkpoint.pth"
KIND = "msbreg-classifier"
FINAL = "all training images"
SAVE_SECONDS = 60.0
TEST_BATCH = 64


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Fine-tune a classifier and return its results; accuracies are in percent."""
    return evaluate("semisupervised", config, card, _run, resume_file=CHECKPOINT)


def _run(config: Config, job: Job) -> dict[str, Any]:
    assert config.data is not None
    train_images, test_images = labeled_images(config, job).values()
    train_images = _labeled_part(config, train_images, job)
    before = unfinished_run(job.output / CHECKPOINT, KIND, job)
    protocol = Protocol(config, job, _network(config, job), before)

    # ---- Choose between the candidates on held-out training images.
    candidates = candidates_of(config, len(train_images))
    chosen, held_out = next(iter(candidates)), dict(before.get("held_out", {}))
    job.record.content["selection"] = "nothing is selected: one combination of settings was given"
    if len(candidates) > 1:
        labels = torch.from_numpy(np.asarray(train_images.labels))
        kept, held = held_out_split(labels, config.held_out, config.seed)
        part, rest = train_images.subset(kept.numpy()), train_images.subset(held.numpy())
        for name, candidate in candidates.items():
            if name not in held_out:
                log.info("---- %s, scored on %d held-out images", name, len(held))
                try:
                    outputs = protocol.fit(name, candidate, part, rest, held_out)
                    held_out[name] = _accuracy(config, outputs, rest)
                except Diverged:
                    job.warn(f"{name} diverged and is not chosen")
                    held_out[name] = None
        chosen = best_of(held_out)
        log.info("---- %s, on all training images", chosen)
        job.record.content["selection"] = (
            f"settings chosen on {len(held)} held-out training images, then trained on all "
            f"{len(train_images)}"
        )

    # ---- Train the chosen one on all training images; score the test images once.
    outputs = protocol.fit(FINAL, candidates[chosen], train_images, test_images, held_out)
    identity = DataId(data_name(config.data), config.val_split, test_images.fingerprint)
    rate = candidates[chosen].head_rate
    return _results(config, job, outputs, Labeled(test_images, identity), chosen, rate, held_out)


def _labeled_part(config: Config, images: LabeledImages, job: Job) -> LabeledImages:
    """The training images whose labels are used."""
    if config.labels == 1:
        return images
    count, fewest = round(config.labels * len(images)), len(images.classes)
    if count < fewest:
        raise UserError(
            f"labels is {config.labels:g}, which is {count} of the {len(images)} training images; expected "
            f"at least one image of each of the {fewest} classes: --labels {fewest / len(images):.4g} or more"
        )
    part = balanced_subset(images, count, seed=config.seed)
    job.record.content["data"][config.train_split] |= {
        "used": len(part),
        "fingerprint_of_used": part.fingerprint,
    }
    log.info("%d of %d training images are used", len(part), len(images))
    return part


@dataclass(frozen=True)
class Network:
    """The network before fine-tuning, and the transforms of its images."""

    backbone: Backbone
    normalization: Normalization
    representation: str
    augmentation: TrainingTransform
    transform: EvaluationTransform


def _network(config: Config, job: Job) -> Network:
    backbone, provenance = load_network(config, job)
    transform = network_transform(config, job, backbone, provenance)
    augmentation = config.augmentation.over(
        TrainingTransform(crop=transform.crop, interpolation=transform.interpolation)
    )
    backbone.adaptation(augmentation.crop)  # refuses sizes that the network does not take
    job.record.content["augmentation"] = plain(augmentation)
    job.record.resolve(augmentation=augmentation)
    representation = chosen_representation(config.representation, backbone, job)
    return Network(backbone, provenance.normalization, representation, augmentation, transform)


def _accuracy(config: Config, outputs: np.ndarray, images: LabeledImages) -> float:
    """What the candidates are compared by."""
    labels = np.asarray(images.labels)
    if config.metric == "mean_per_class":
        return mean_class_accuracy(outputs, labels)[0]
    return top_k_accuracy(outputs, labels, 1)


# ---- One training, and the outputs for the images to score


@dataclass(frozen=True)
class Protocol:
    """What all trainings of a run share.

    Attributes:
        before: the checkpoint of an interrupted run; empty if there is none.
    """

    config: Config
    job: Job
    network: Network
    before: dict[str, Any]

    def fit(
        self,
        phase: str,
        candidate: Candidate,
        fitted: LabeledImages,
        tested: LabeledImages,
        held_out: Mapping[str, float | None],
    ) -> np.ndarray:  # (N, C)
        """Train a new classifier and return its outputs; continues an interrupted training."""
        config, job = self.config, self.job
        seed_everything(config.seed + distributed.rank())  # for dropout
        classifier = Classifier(
            copy.deepcopy(self.network.backbone),
            self.network.representation,
            len(fitted.classes),
            torch.Generator().manual_seed(config.seed),
            frozen=config.freeze == "encoder",
        )
        if config.sync_bn:
            distributed.synchronize_batch_norm(classifier, job.device)
        training = ClassifierTraining(
            len(fitted),
            classifier,
            candidate,
            config,
            self.network.normalization,
            batches_of=augmented_batches(
                fitted,
                self.network.augmentation,
                seed=config.seed,
                workers=config.loading,
                device=job.device,
            ),
            device=job.device,
        )
        if left := len(fitted) - sum(training.sizes):
            job.warn(
                f"{left} of {len(fitted)} images are left out of each epoch: they do not give each process "
                "two images"
            )
        header = {
            "kind": KIND,
            "phase": phase,
            "held_out": dict(held_out),
            "data": job.record.content["data"],
        }
        self._train(training, header, phase)
        distributed.share_buffers(classifier)
        return self._outputs(classifier.eval(), tested)

    def _train(self, training: ClassifierTraining, header: dict[str, Any], phase: str) -> None:
        job, state = self.job, State()
        checkpoint = Checkpoint(job.output / CHECKPOINT, lambda step: header)
        if self.before.get("phase") == phase:
            require_same_data(checkpoint.path, self.before, header["data"])
            if warning := checkpoint.restore(training, state, self.before):
                job.warn(warning)
            log.info("continuing %s from step %d of %d", phase, state.step, training.steps)
        plan = Plan(
            steps=training.steps,
            row_every=training.epoch,
            save_seconds=SAVE_SECONDS,
            read_every=1 if job.device.type == "cpu" else min(20, training.epoch),
        )
        job.stop.watched = True  # from here on: save first, then stop
        with Progress(
            "training",
            plan.steps,
            first=state.step,
            per_step=self.config.batch_size,
            unit="images",
        ) as progress:
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

    def _outputs(self, classifier: Classifier, images: LabeledImages) -> np.ndarray:  # (N, C)
        """The outputs for all images."""
        bf16 = self.config.precision == "bf16"
        outputs = outputs_of_all(
            _Outputs(classifier, self.network.normalization, self.job.device, bf16),
            images,
            classifier.head.out_features,
            transform=self.network.transform,
            batch_size=TEST_BATCH,
            threads=self.config.workers,
            label="scoring",
            each_batch=self._stop_if_requested,
        )
        return outputs.numpy()

    def _stop_if_requested(self) -> None:
        if self.job.stop:
            raise Interrupted(
                f"{self.job.stop.name} during the evaluation; the same command continues the run."
            )


@dataclass(frozen=True)
class _Outputs:
    """The outputs of a classifier, where ``feature_batches`` expects a network's features."""

    classifier: Classifier
    normalization: Normalization
    device: torch.device
    bf16: bool
    compiled: ClassVar[bool] = False

    def __call__(self, pixels: Tensor) -> Tensor:  # (B, C), on the CPU
        images = normalize(pixels, self.device, self.normalization)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            logits: Tensor = self.classifier(images)
            return logits.float().cpu()


# ---- Results


def _results(
    config: Config,
    job: Job,
    outputs: np.ndarray,  # (N, C)
    tested: Labeled,
    chosen: str,
    rate: float,
    held_out: Mapping[str, float | None],
) -> dict[str, Any]:
    """Scores of the test images; ``rate`` is the chosen learning rate of the layer."""
    trained = {
        "nothing": "fine-tuned network",
        "statistics": "fine-tuned network with frozen BatchNorm statistics",
        "encoder": "linear layer on a frozen network, augmented images",
    }[config.freeze]
    share = "" if config.labels == 1 else f", {100 * config.labels:g} % of the labels"
    rules = f"{trained}, trained on {config.train_split}{share}"
    top1, *top5 = accuracy_scores(outputs, tested, name="fine-tuned", rules=rules)
    mean = mean_class_score(outputs, tested, name="fine-tuned", rules=rules)
    first, others = (mean, [top1]) if config.metric == "mean_per_class" else (top1, [mean])
    record_scores(job, (first, *top5, *others))
    log.info("top-1: %.2f %% with %s", top1.value, chosen)
    rates = config.learning_rates
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        job.warn(f"the chosen learning rate {rate:g} is at the end of the list; extend the list")
    return {
        "top1": top1.value,
        "top1_stderr": top1.stderr,
        **({"top5": top5[0].value} if top5 else {}),
        "mean_per_class": mean.value,
        "chosen": chosen,
        **({"held_out": held_out} if held_out else {}),
        "checkpoint": CHECKPOINT,
    }


if __name__ == "__main__":
    main(run, *OPTIONS)
