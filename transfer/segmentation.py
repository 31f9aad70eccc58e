"""Semantic segmentation by fine-tuning a fully convolutional network on a dilated backbone.

The transfer protocols of MoCo and BYOL (configs/voc12_fcn.yaml), MMSegmentation's FCN-D8, and a linear
classifier on frozen features. The score is the mean IoU from totals over all images, at the resolution of
the label maps. After an interruption (Ctrl-C, SIGTERM, a crash) the same command continues from the last
checkpoint. With --eval-only, the network of another run is evaluated, for example with other inference
options.
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card, plain
from msbreg.run.errors import Interrupted, UserError
from msbreg.run.options import main, read_options
from transfer.segmenters.segmentation_config import Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np
import torch

from msbreg.backbones.resnet import ResNet
from msbreg.backbones.spec import Normalization, Provenance
from msbreg.backbones.vit_architectures import no_resnet
from msbreg.checkpoints.load import load_exactly
from msbreg.data.segmentation.label_maps import LabelMaps
from msbreg.data.segmentation.map_sources import MAP_SOURCES
from msbreg.data.sources import data_name
from msbreg.data.training_order import part_of, share_of_batch
from msbreg.run import distributed
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log, seed_everything
from msbreg.run.progress import Progress
from msbreg.train.health import Diverged, memory_advice, memory_used
from msbreg.train.loop import train
from msbreg.train.state import Checkpoint, State, require_same_data, unfinished_run
from transfer.finetuning.trials import run_trials
from transfer.frozen.evaluation import best_of, evaluate
from transfer.frozen.frozen_network import load_network
from transfer.scoring.iou import SegmentationScores
from transfer.scoring.scores import DataId
from transfer.segmenters import mmseg_config
from transfer.segmenters import segmentation_results as results
from transfer.segmenters.crops import training_batches
from transfer.segmenters.fcn import Segmenter
from transfer.segmenters.map_splits import checked_split, checked_splits
from transfer.segmenters.segmenter_engine import Engine, choose
from transfer.segmenters.segmenter_file import (
    CHECKPOINT,
    FINAL,
    KIND,
    TRAINING,
    open_segmenter,
)
from transfer.segmenters.segmenter_training import (
    BATCH_SIZE,
    TESTING_ADVICE,
    SegmenterTraining,
    format_losses,
    plan_of,
)


def run(config: Config, card: Card | None = None) -> dict[str, Any]:
    """Train and evaluate a segmentation network and return the results; scores are in percent."""
    if config.trials > 1:
        return run_trials(config, card, run)
    engine = choose(config.engine, config.network)
    config = dataclasses.replace(config, engine=engine.name)

    def protocol(config: Config, job: Job) -> dict[str, Any]:
        job.record.content["engine"] = engine.described()
        return _run(config, engine, job)

    return evaluate("segmentation", config, card or Card(), protocol, resume_file=CHECKPOINT)


def _run(config: Config, engine: Engine, job: Job) -> dict[str, Any]:
    assert config.data is not None
    if config.eval_only:
        return _evaluate_only(config, engine, job)
    share = share_of_batch(config.solver.batch_size, distributed.world_size(), name=BATCH_SIZE)
    part_of(share, config.accumulate)
    fitted, tested = checked_splits(config.data, (config.train_split, config.val_split), job)
    backbone, provenance = _backbone(config, job)
    before = unfinished_run(job.output / CHECKPOINT, KIND, job)
    protocol = Protocol(config, engine, job, backbone, provenance, before)

    # ---- Choose a learning rate on held-out training images.
    rates, choice = config.solver.learning_rates, dict(before.get("choice", {}))
    selection = "fixed schedule (no selection)"
    if len(rates) > 1:
        kept, held = held_out(fitted, config.solver.held_out, config.seed)
        for rate in rates:
            if (name := f"{rate:g}") not in choice:
                log.info("---- learning rate %s, scored on %d held-out images", name, len(held))
                try:
                    choice[name] = protocol.fit(Phase(name, rate, kept, held, choice)).mean_iou
                except Diverged:
                    job.warn(f"learning rate {name} diverged and is not chosen")
                    choice[name] = None
        rates = (next(rate for rate in rates if f"{rate:g}" == best_of(choice)),)
        selection = f"learning rate on {len(held)} held-out training images, then trained on all"
        log.info("---- learning rate %g, on all training images", rates[0])
    job.record.content["selection"] = selection

    # ---- Train on all images; evaluate on the test images once.
    scores = protocol.fit(Phase(FINAL, rates[0], fitted, tested, choice))
    return results.numbers(scores) | {
        "iterations": config.solver.iterations,
        "learning_rate": rates[0],
        "checkpoint": CHECKPOINT,
        **({"held_out_mIoU": choice} if choice else {}),
    }


def _evaluate_only(config: Config, engine: Engine, job: Job) -> dict[str, Any]:
    """Evaluate the network of an earlier run."""
    assert config.data is not None
    job.record.content["selection"] = "none: a trained network is evaluated"
    tested = checked_split(config.data, config.val_split, job)
    trained = open_segmenter(Path(config.checkpoint).expanduser(), engine, config, tested.classes)
    job.record.content["network"] = trained.network
    job.record.content["data"] = trained.data | job.record.content["data"]
    job.record.resolve(**trained.training)
    if not trained.complete:
        job.warn(f"{config.checkpoint} is of an unfinished run ({trained.iterations} iterations)")
    network = trained.model.to(job.device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    log.info("%s: %d iterations; %d images", config.checkpoint, trained.iterations, len(tested))
    job.stop.watched = True
    scores = evaluate_images(network, tested, trained.normalization, config, job, final=True)
    return results.numbers(scores) | {"iterations": trained.iterations}


# ---- Data and backbone


def held_out(source: LabelMaps, count: int, seed: int) -> tuple[LabelMaps, LabelMaps]:
    """Split training images at random into (kept, ``count`` held out).

    Raises:
        UserError: fewer than one image would be kept.
    """
    if count >= len(source):
        raise UserError(
            f"solver.held_out is {count}; expected less than {len(source)}, the number of training images"
        )
    order = np.random.default_rng(seed).permutation(len(source))
    return source.subset(np.sort(order[count:])), source.subset(np.sort(order[:count]))


def _backbone(config: Config, job: Job) -> tuple[ResNet, Provenance]:
    """Load the backbone; its provenance goes into the record."""
    backbone, provenance = load_network(config, job)
    if not isinstance(backbone, ResNet):
        raise UserError(f"{config.checkpoint}: {no_resnet(provenance.arch)}")
    return backbone, provenance


# ---- One phase: training from the backbone, and an evaluation


@dataclass(frozen=True)
class Phase:
    """A learning rate, the images to train on and to score, and the scores of earlier phases."""

    name: str
    rate: float
    fitted: LabelMaps
    tested: LabelMaps
    choice: Mapping[str, float | None]


@dataclass(frozen=True)
class Protocol:
    """What all phases of a run share.

    Attributes:
        before: the checkpoint of an interrupted run; empty if there is none.
    """

    config: Config
    engine: Engine
    job: Job
    backbone: ResNet
    provenance: Provenance
    before: dict[str, Any]

    def fit(self, phase: Phase) -> SegmentationScores:
        """Train a new network and evaluate it; continues an interrupted phase."""
        config, job = self.config, self.job
        device, rank, world = job.device, distributed.rank(), distributed.world_size()
        training = SegmenterTraining(
            self._network(len(phase.fitted.classes)),
            config,
            phase.rate,
            self.provenance.normalization,
            device,
        )
        seed_everything(config.seed + rank)  # for dropout
        if phase.name == FINAL and self.engine.writes_config and distributed.is_main():
            self._write_mmseg_config(phase)
        header = {
            "kind": KIND,
            "phase": phase.name,
            "choice": dict(phase.choice),
            "data": job.record.content["data"],
            "network": job.record.content["network"],
            "iterations": config.solver.iterations,
            "layers": plain(config.network),
            "training": {name: plain(getattr(config, name)) for name in TRAINING},
        }
        state = State()
        checkpoint = Checkpoint(job.output / CHECKPOINT, lambda step: header | {"iteration": step})
        if self.before.get("phase") == phase.name:
            self._resume(training, state, checkpoint)
        found: list[SegmentationScores] = []

        def score(iteration: int) -> dict[str, Any] | None:
            with memory_advice(TESTING_ADVICE):
                found.append(
                    evaluate_images(
                        training.model,
                        phase.tested,
                        self.provenance.normalization,
                        config,
                        job,
                        final=phase.name == FINAL,
                    )
                )
            if not distributed.is_main():
                return None
            return {"iteration": iteration, "scores": results.numbers(found[-1])}

        batches = training_batches(
            phase.fitted,
            config.augmentation,
            batch=config.solver.batch_size,
            seed=config.seed,
            first=state.step,
            rank=rank,
            world=world,
            workers=config.workers,
            pin_memory=device.type == "cuda",
        )
        plan = plan_of(config, device)
        log.info(
            "%d iterations of %d images on %s; %d training images, %d test images",
            plan.steps, config.solver.batch_size, f"{world} x {device}", len(phase.fitted),
            len(phase.tested),
        )  # fmt: skip
        job.stop.watched = True  # from here on: save first, then stop
        with Progress(
            "training",
            plan.steps,
            first=state.step,
            per_step=config.solver.batch_size,
            unit="images",
        ) as progress:
            train(
                training,
                batches,
                plan,
                state,
                checkpoint,
                job=job,
                progress=progress,
                evaluate=score,
                describe=lambda losses: f"{format_losses(losses)}  {memory_used(device)}",
            )
        if not found:  # killed after the last evaluation, before its scores were recorded
            score(state.step)
        return found[-1]

    def _network(self, classes: int) -> Segmenter:
        """A new network with the weights of the backbone, on the device."""
        config, device = self.config, self.job.device
        seed_everything(config.seed)
        network = self.engine.build(self.provenance.spec, classes, config.network)
        load_exactly(network.backbone, self.backbone.state_dict(), config.checkpoint)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)
        if config.network.freeze != "statistics":
            distributed.synchronize_batch_norm(network, device)
        return network.to(device)

    def _write_mmseg_config(self, phase: Phase) -> None:
        text = mmseg_config.config_text(
            self.config,
            self.provenance.spec,
            phase.fitted.classes,
            phase.rate,
            processes=distributed.world_size(),
        )
        write_atomically(self.job.output / mmseg_config.FILE, text.encode())

    def _resume(self, training: SegmenterTraining, state: State, checkpoint: Checkpoint) -> None:
        require_same_data(checkpoint.path, self.before, self.job.record.content["data"])
        if warning := checkpoint.restore(training, state, self.before):
            self.job.warn(warning)
        log.info("continuing after iteration %d", state.step)


def evaluate_images(
    network: Segmenter,
    tested: LabelMaps,
    normalization: Normalization,
    config: Config,
    job: Job,
    *,
    final: bool,
) -> SegmentationScores:
    """Scores of a network; the final ones are written to the run's folder, with the predictions."""
    evaluation = results.Evaluation(
        tested,
        config.inference,
        normalization,
        job.device,
        job.output / results.PREDICTIONS if final else None,
        workers=config.workers,
        each=lambda: _stop_if_requested(job),
    )
    scores = results.evaluate(network, evaluation)
    if final and distributed.is_main():
        assert config.data is not None
        data = DataId(data_name(config.data, MAP_SOURCES), config.val_split, tested.fingerprint)
        results.write(job, tested, scores, data, rules=results.rules(config.inference))
    return scores


def _stop_if_requested(job: Job) -> None:
    if job.stop:
        raise Interrupted(
            f"{job.stop.name} during the evaluation; the same command continues the run."
        )


if __name__ == "__main__":
    main(run, *OPTIONS)
