"""Object detection by fine-tuning: Faster, Mask and Keypoint R-CNN, configured by Detectron2's yaml.

The transfer protocols of MoCo, SwAV, Barlow Twins, VICReg, PixPro and MSBReg (configs/voc_c4.yaml and
others). Detectron2 trains the detector if it is installed; otherwise an equivalent engine built from
torchvision's operators does. After an interruption (Ctrl-C, SIGTERM, a crash) the same command continues
from the last checkpoint.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card, plain
from msbreg.run.errors import Interrupted
from msbreg.run.options import main, read_options
from transfer.detectors.detection_config import Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config, pairs="overrides")

import torch
from fvcore.common.config import CfgNode

from msbreg.data.training_order import part_of, share_of_batch
from msbreg.run import distributed
from msbreg.run.job import AlreadyFinished, Job, log, seed_everything, start_job
from msbreg.run.progress import Progress
from msbreg.train.health import memory_advice, memory_used
from msbreg.train.loop import train
from msbreg.train.state import State
from transfer.detectors import results
from transfer.detectors.config.supported import check_run
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.detector_training import (
    MOVING_ADVICE,
    TESTING_ADVICE,
    DetectorTraining,
    MemoryNeeds,
    checkpoint_of,
    format_losses,
    plan_of,
    resume,
    training_advice,
)
from transfer.detectors.engine import Engine, choose
from transfer.detectors.mapper import Sample, mapper_settings
from transfer.detectors.repeat_factors import repeat_factors
from transfer.detectors.samples import BATCH_SIZE, training_batches
from transfer.detectors.solver import check_schedule, unreached_steps
from transfer.detectors.splits import data_of
from transfer.detectors.start import start_detector, weights_digest
from transfer.finetuning.trials import run_trials
from transfer.scoring.scores import DetectionScores

CHECKPOINT = "checkpoint.pth"
STATISTICS = 2**32  # seed offset of the batches that only serve to estimate BatchNorm statistics


def run(config: Config, card: Card | None = None) -> dict[str, Any]:
    """Train and evaluate a detector and return the results; scores are in percent."""
    settings = read_config(config.config, config.overrides)
    check_run(settings)
    if config.trials > 1:
        output = config.output or Path(settings.OUTPUT_DIR)
        return run_trials(dataclasses.replace(config, output=output), card, run)
    engine = choose(config.engine)
    resolved = config.resolved(settings, engine.name)
    check_schedule(settings)
    card = card or Card(Path(config.config).stem)
    inputs = weights_digest(resolved.checkpoint)
    try:
        with start_job(
            resolved, card, kind="detection", resume_file=CHECKPOINT, inputs=inputs
        ) as current:
            log.info(
                "detection of %s on %s / %s",
                resolved.checkpoint,
                "no training" if config.eval_only else ", ".join(settings.DATASETS.TRAIN),
                ", ".join(settings.DATASETS.TEST),
            )
            current.record.content["engine"] = engine.described() | {"asked": config.engine}
            log.info("engine %s %s (--engine %s)", engine.name, engine.version, config.engine)
            current.results = _run(resolved, settings, engine, current)
            return current.results
    except AlreadyFinished as finished:
        log.info("%s already contains this completed run; skipping", finished)
        return {}


def _run(config: Config, settings: CfgNode, engine: Engine, job: Job) -> dict[str, Any]:
    device, world, rank = job.device, distributed.world_size(), distributed.rank()

    # ---- Training and test scenes.
    mapper = mapper_settings(settings)
    size = settings.SOLVER.IMS_PER_BATCH
    if not config.eval_only:  # check --accumulate before reading the data, which may take long
        part_of(share_of_batch(size, world, name=BATCH_SIZE), config.accumulate)
    data = data_of(settings, config.data, train=not config.eval_only, strict=config.strict_data)
    job.record.content["data"] = data.described()
    for warning in data.warnings():
        job.warn(warning)
    job.record.content["selection"] = "fixed schedule (no selection)"

    # ---- The detector, its initial weights and its optimizer.
    seed_everything(config.seed)
    detector = engine.build(settings)
    start_detector(detector, settings, config, data.test.classes, job)
    if config.channels_last:
        detector.to(memory_format=torch.channels_last)
    distributed.support_device(detector, device)
    with memory_advice(MOVING_ADVICE):
        detector.to(device)
    solver = engine.solver(settings, detector)
    seed_everything(config.seed + rank)  # each process samples its own proposals
    about = {
        "yaml": plain(config.yaml),
        "data": data.described(),
        "engine": engine.name,
        "device": device.type,
        "network": job.record.content["network"],
    }

    # ---- Evaluation.
    scores: dict[str, DetectionScores] = {}

    def stop_if_requested() -> None:
        if job.stop:
            raise Interrupted(
                f"{job.stop.name} during the evaluation; the same command continues the run."
            )

    def evaluate(iteration: int) -> dict[str, Any] | None:
        with memory_advice(TESTING_ADVICE):
            predictions = engine.predict(
                detector, data.test, mapper, workers=config.workers, each_scene=stop_if_requested
            )
        if not distributed.is_main():
            return None
        # With --eval-only, the iteration is that of the given detector.
        trained = job.record.content["network"].get("iteration", 0)
        scores.update(results.write(job, data.test, predictions, iteration or trained))
        return {"iteration": iteration, "scores": results.numbers(scores)}

    if config.eval_only:
        job.stop.watched = True
        evaluate(0)
        return results.numbers(scores)

    loading, repeats = settings.DATALOADER, None
    if loading.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        repeats = repeat_factors(
            data.train, loading.REPEAT_THRESHOLD, square_root=loading.REPEAT_SQRT
        )

    def batches(first: int, seed: int, workers: int) -> Iterator[list[Sample]]:
        return training_batches(
            data.train,
            mapper,
            batch=size,
            seed=seed,
            first=first,
            rank=rank,
            world=world,
            workers=workers,
            group=loading.ASPECT_RATIO_GROUPING,
            repeats=repeats,
        )

    # ---- Training; continues from a checkpoint in the output folder.
    precise = settings.TEST.PRECISE_BN
    trainable = DetectorTraining(
        detector,
        solver,
        device,
        accumulate=config.accumulate,
        bf16=config.amp == "bf16",
        precise_bn=precise.NUM_ITER if precise.ENABLED else 0,
        statistics_batches=lambda first: batches(first, config.seed + STATISTICS, 0),
    )
    plan = plan_of(settings, device=device, seed=config.seed)
    state = State()
    checkpoint = checkpoint_of(job.output / CHECKPOINT, about)
    if checkpoint.path.exists():
        resume(trainable, state, checkpoint, job, about)
    share = share_of_batch(size, world, name=BATCH_SIZE)
    job.record.content["batch"] = {
        "images": size,
        "processes": world,
        "parts": config.accumulate,
    }
    if left := unreached_steps(settings.SOLVER):
        job.warn(f"SOLVER.STEPS {left} come after MAX_ITER and are ignored")
    log.info(
        "%d iterations of %d images (%d at a time on each of %s); %d training images, %d test images",
        plan.steps, size, part_of(share, config.accumulate), f"{world} x {device}",
        len(data.train.scenes), len(data.test.scenes),
    )  # fmt: skip
    trainable.memory = training_advice(
        settings, MemoryNeeds(share, config.accumulate, trainable.bf16)
    )
    job.stop.watched = True  # from here on: save first, then stop
    with Progress(
        "training", plan.steps, first=state.step, per_step=size, unit="images"
    ) as progress:
        train(
            trainable,
            batches(state.step, config.seed, config.workers),
            plan,
            state,
            checkpoint,
            job=job,
            progress=progress,
            evaluate=evaluate,
            describe=lambda losses: f"{format_losses(losses)}  {memory_used(device)}",
        )
    if distributed.any_of([distributed.is_main() and not scores])[0]:
        # The run was killed after its last step, before its scores were recorded.
        evaluate(state.step)
    return results.numbers(scores) | {"iterations": state.step, "checkpoint": CHECKPOINT}


if __name__ == "__main__":
    main(run, *OPTIONS)
