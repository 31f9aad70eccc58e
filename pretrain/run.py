"""Pre-train a backbone without labels: MSBReg (arXiv 2207.03552), BYOL, and the other methods of the field.

Without arguments, it trains on the embedded digits. Start it with torchrun to use several processes. If the
run is interrupted, run the same command to continue from the last checkpoint.
"""

import contextlib
import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card, plain
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.options import main, read_options
from pretrain.recipe import Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np

from msbreg.checkpoints.load import file_sha256, load_checkpoint
from msbreg.data.images import LabeledImages, balanced_subset, unreadable
from msbreg.data.sources import EMBEDDED, training_images
from msbreg.run import distributed
from msbreg.run.job import AlreadyFinished, Job, log, start_job
from msbreg.run.progress import Progress
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State, require_record
from pretrain.equivalence import equivalent
from pretrain.methods import build_method
from pretrain.methods.method import Method
from pretrain.monitor import Monitor, describe
from pretrain.snapshots import is_due, save_snapshot
from pretrain.training import PreTraining, peak_learning_rate
from pretrain.view_batches import Order, Recipe, ViewBatch, batches_of_views, fixed_views
from pretrain.views import Augmentation, policy

CHECKPOINT = "checkpoint.pth"


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Pre-train a backbone; return the results as stored in the record."""
    try:
        with start_job(config, card, kind="pretrain", resume_file=CHECKPOINT) as job:
            return _run(config, card, job)
    except AlreadyFinished as finished:
        log.info("%s already contains this completed run; skipping", finished)
        return {}


def _run(config: Config, card: Card, job: Job) -> dict[str, Any]:
    device = job.device

    # ---- Images and their order.
    images = _images(config, job)
    world, rank = distributed.world_size(), distributed.rank()
    order = Order(len(images), config.batch_size, config.epochs, config.seed, world, rank)
    recipe = _recipe(config)

    # ---- The method and its networks, restored from the checkpoint if there is one.
    method = build_method(config)
    method.allocate(len(images))
    method.to(device, synchronize=config.sync_bn)
    trainable = PreTraining(method, config, device, steps=order.steps, epoch=order.steps_per_epoch)
    state = State()
    checkpoint = Checkpoint(job.output / CHECKPOINT, _header(method, images, order))
    if checkpoint.path.exists():
        _resume(trainable, state, checkpoint, job, images)
    log.info(
        "%s, %s on %d images: epochs %d, steps per epoch %d, %d x %d views per step, on %s",
        config.method,
        config.arch,
        len(images),
        config.epochs,
        order.steps_per_epoch,
        config.batch_size,
        config.views,
        f"{world} x {device}" if world > 1 else device,
    )
    same = equivalent(config, world, before=job.record.content.get("equivalent", True))
    job.record.content["equivalent"] = same
    if same is not True:
        job.warn(f"differs from one process with the same batch: {'; '.join(same)}")
    if card.name == "defaults" and config.data not in EMBEDDED:
        job.warn(
            "no --config was given, so the settings are those for the embedded digits. For your own "
            "small photographs, use --config configs/photos_msbreg.yaml"
        )

    # ---- Monitoring.
    monitor = _monitor(config, job, images, recipe.policy, state.step)
    if monitor is not None and not state.curve:
        row = {"epoch": 0, "step": 0} | monitor.evaluate(trainable)
        state.curve.append(row)
        monitor.write(row)
        checkpoint.write_curve(state)
        log.info("%s  (before training)", describe(row))
    started, first_step = time.monotonic(), state.step

    def after_epoch(row: dict[str, Any]) -> None:
        seconds = time.monotonic() - started
        row["images_per_second"] = (state.step - first_step) * config.batch_size / seconds
        # The main process looks, and all processes hear of a collapse.
        collapse = distributed.from_main(lambda: look(row))
        if is_due(row["epoch"], every=config.keep_every, epochs=config.epochs):
            header = checkpoint.header(state.step)
            distributed.from_main(lambda: save_snapshot(job.output, method, header, row["epoch"]))
        if collapse and config.diagnostics.on_collapse == "stop":
            state.curve.append(row)
            checkpoint.write_curve(state)
            raise RunFailed(_stopped(collapse))

    def look(row: dict[str, Any]) -> str:
        """Add the metrics to a row, log it, and describe a collapse."""
        assert monitor is not None
        collapse = ""
        if row["epoch"] % config.diagnostics.every == 0 or row["epoch"] == config.epochs:
            row |= monitor.evaluate(trainable)
            if sign := monitor.collapse(row):
                collapse = f"epoch {row['epoch']}: {sign}"
                job.warn(collapse)
        log.info("%s", describe(row))
        monitor.write(row)
        return collapse

    # ---- Training.
    def batches(first_step: int) -> Generator[ViewBatch]:
        return batches_of_views(
            images,
            recipe,
            order,
            first_step=first_step,
            workers=config.workers,
            device=device,
        )

    if state.step == 0:
        with contextlib.closing(batches(0)) as first_epoch:
            method.prepare(itertools.islice(first_epoch, order.steps_per_epoch), distributed.gather)
    plan = Plan(
        steps=order.steps,
        row_every=order.steps_per_epoch,
        save_seconds=config.save_seconds,
        read_every=1 if device.type == "cpu" else 20,
        seed=config.seed,
    )
    views_per_step = config.batch_size * trainable.views
    job.stop.watched = True  # from here on, a signal saves a checkpoint before the run stops
    with Progress(
        "pre-training", plan.steps, first=state.step, per_step=views_per_step, unit="views"
    ) as progress:
        train(
            trainable,
            batches(state.step),
            plan,
            state,
            checkpoint,
            job=job,
            progress=progress,
            on_row=after_epoch,
        )

    # ---- Results.
    job.results = {
        "checkpoint": checkpoint.path.name,
        "sha256": file_sha256(checkpoint.path) if distributed.is_main() else "",
        "steps": state.step,
        "views_seen": state.step * views_per_step,
        "views_per_second": round(progress.rate * views_per_step, 1),
        "peak_learning_rate": peak_learning_rate(config),
    }
    last = state.curve[-1] if state.curve else {}
    listed = {k: v for k, v in last.items() if k not in ("spectrum", "step") and "/" not in k}
    job.results |= listed  # without forces, which are in the curve
    log.info("done: %s", checkpoint.path)
    return job.results


def _stopped(collapse: str) -> str:
    """The message of a run that a collapse ends."""
    return (
        f"{collapse}, and diagnostics.on_collapse is stop.\n"
        "Start over in another --output with stronger terms against collapse (such as a larger --lambda_s), "
        "or a\nsmaller --optimizer.base_lr. To continue this run nevertheless, repeat the command with "
        "--diagnostics.on_collapse warn."
    )


def _images(config: Config, job: Job) -> LabeledImages:
    images = training_images(config.data, config.train_split, classes_file=config.classes_file)
    if config.classes_file is not None:  # the digest covers the classes, not the path of the file
        names = "\n".join(images.classes).encode()
        job.record.resolve(classes_file=hashlib.sha256(names).hexdigest())
    if note := images.ignored_files():
        job.warn(note)
    if config.skip_unreadable:
        # Decided by one process: a temporary read error must not give processes different images.
        images = images.without(distributed.from_main(lambda: _unreadable(images)))
        if images.skipped:
            job.warn(f"unreadable files skipped: {len(images.skipped)}")
    if config.max_images is not None:
        images = balanced_subset(images, config.max_images, seed=config.seed)
    job.record.content["data"] = {
        "root": images.where,
        "images": len(images),
        "classes": len(images.classes),
        "fingerprint": images.fingerprint,
        "skipped": len(images.skipped),
        "skipped_files": list(images.skipped[:100]),
    }
    return images


def _unreadable(images: LabeledImages) -> tuple[str, ...]:
    with Progress("checking every file", len(images), unit="files") as progress:
        return unreadable(images, progress=lambda done, _: progress.update(done))


def _recipe(config: Config) -> Recipe:
    options = config.augment
    apart = ("policy", "size", "finish", "local_views", "local_size", "local_area")
    given = {
        name: value
        for name, value in vars(options).items()
        if name not in apart and value is not None
    }
    local = given | {"crop_area": options.local_area}
    return Recipe(
        policy(options.policy, options.size, **given),
        config.views,
        policy(options.policy, options.local_size, **local),
        options.local_views,
        independent=config.target.views == "independent",
        finish=options.finish,
    )


def _monitor(
    config: Config,
    job: Job,
    images: LabeledImages,
    augmentations: tuple[Augmentation, ...],
    first_step: int,
) -> Monitor | None:
    if not distributed.is_main():
        return None
    labels = images.labels
    enough = labels is not None and labels.ndim == 1 and np.bincount(labels).min() >= 4
    if not enough:
        log.info("kNN monitor disabled: it needs class folders with at least 4 images each")
    options = config.diagnostics
    batch = None
    if config.batch_size <= options.images:
        batch = fixed_views(
            images,
            augmentations,
            count=config.batch_size,
            seed=config.seed,
            views=config.views,
        )
    return Monitor(
        job.output,
        options,
        views=fixed_views(images, augmentations, count=options.images, seed=config.seed),
        batch=batch,
        labeled=images if enough else None,
        size=config.augment.size,
        device=job.device,
        first_step=first_step,
    )


def _header(method: Method, images: LabeledImages, order: Order) -> Callable[[int], dict[str, Any]]:
    """Entries that describe a checkpoint, as a function of the step."""
    config = method.config
    evaluated = {} if method.evaluated == "online" else {"evaluated": method.evaluated}

    def header(step: int) -> dict[str, Any]:
        return {
            "arch": config.arch,
            "image_size": config.augment.size,
            "config": plain(config),
            "data": {"fingerprint": images.fingerprint, "images": len(images)},
            "step": step,
            "steps": order.steps,
            **evaluated,
        }

    return header


def _resume(
    trainable: PreTraining,
    state: State,
    checkpoint: Checkpoint,
    job: Job,
    images: LabeledImages,
) -> None:
    require_record(checkpoint.path, job.resumed)
    content = load_checkpoint(checkpoint.path)
    if content["data"]["fingerprint"] != images.fingerprint:
        raise UserError(
            f"{checkpoint.path} was trained on {content['data']['images']} images, which differ from the "
            f"{len(images)} in {images.where}: files were added, removed or changed.\n"
            "Restore the files to continue, or start over in another --output."
        )
    if warning := checkpoint.restore(trainable, state, content):
        job.warn(warning)
    log.info("continuing from step %d of %d", state.step, content["steps"])


if __name__ == "__main__":
    main(run, *OPTIONS)
