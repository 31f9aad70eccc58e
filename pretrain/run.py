"""Pre-train a backbone without labels: MSBReg (arXiv 2207.03552) or BYOL.

Without arguments: the embedded digits. With torchrun: any number of processes. Stopped by Ctrl-C,
SIGTERM or worse, the same command continues where the last checkpoint was.
"""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card, plain
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from pretrain.recipe import Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np

from msbreg.checkpoints.load import file_sha256, load_checkpoint
from msbreg.data.folder import ImageList, balanced_subset, unreadable
from msbreg.data.sources import EMBEDDED, training_images
from msbreg.run import distributed
from msbreg.run.job import AlreadyFinished, Job, job, log
from msbreg.run.progress import Progress
from msbreg.train.health import memory_advice
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State, require_record
from pretrain.methods import METHODS
from pretrain.monitor import Monitor, describe
from pretrain.training import PreTraining, peak_learning_rate
from pretrain.view_batches import Order, batches_of_views, fixed_views
from pretrain.views import Augmentation, policy

CHECKPOINT = "checkpoint.pth"
_MEMORY = (
    "out of memory while pre-training.\n"
    "--precision bf16 needs about half; more processes (torchrun) share --batch_size; a smaller "
    "--batch_size or\n--augment.size is another recipe and needs a new --output."
)


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Train from the settings alone; returns the results that the record holds."""
    try:
        with job(config, card, kind="pretrain", resume_file=CHECKPOINT) as running:
            return _run(config, card, running)
    except AlreadyFinished as finished:
        log.info("%s already contains this completed run; skipping", finished)
        return {}


def _run(config: Config, card: Card, running: Job) -> dict[str, Any]:
    device = running.device

    # ---- The images, and the order in which they come.
    images = _images(config, running)
    world, rank = distributed.world_size(), distributed.rank()
    order = Order(len(images), config.batch_size, config.epochs, config.seed, world, rank)
    augmentations = _augmentations(config)

    # ---- The method and its networks; a checkpoint in the folder continues.
    method = METHODS[config.method](config)
    method.to(device, synchronize=config.sync_bn)
    trainable = PreTraining(method, config, device, steps=order.steps, epoch=order.steps_per_epoch)
    state = State()
    checkpoint = Checkpoint(running.output / CHECKPOINT, _header(config, images, order))
    if checkpoint.path.exists():
        _resume(trainable, state, checkpoint, running, images)
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
    if world > 1 and device.type == "cpu":
        running.warn(
            "each process has BatchNorm statistics of its own: PyTorch has no SyncBatchNorm on CPUs"
        )
    if card.name == "defaults" and config.data not in EMBEDDED:
        running.warn(
            "no --config was given, so the settings are those of the embedded digits. For small "
            "photographs of your own, use --config configs/photos_msbreg.yaml"
        )

    # ---- What is watched.
    monitor = _monitor(config, running, images, augmentations, state.step)
    if monitor is not None and not state.curve:
        row = {"epoch": 0, "step": 0} | monitor.look(method)
        state.curve.append(row)
        monitor.write(row)
        checkpoint.write_curve(state)
        log.info("%s  (before training)", describe(row))
    started, first_step = time.monotonic(), state.step

    def each_epoch(row: dict[str, Any]) -> None:
        seconds = time.monotonic() - started
        row["images_per_second"] = (state.step - first_step) * config.batch_size / seconds
        if monitor is None:
            return
        if row["epoch"] % config.diagnostics.every == 0 or row["epoch"] == config.epochs:
            row |= monitor.look(method)
            if collapse := monitor.collapse(row):
                running.warn(f"epoch {row['epoch']}: {collapse}")
        log.info("%s", describe(row))
        monitor.write(row)

    # ---- The loop.
    plan = Plan(
        steps=order.steps,
        row_every=order.steps_per_epoch,
        save_seconds=config.save_seconds,
        read_every=1 if device.type == "cpu" else 20,
        seed=config.seed,
    )
    batches = batches_of_views(
        images,
        augmentations,
        config.views * (2 if config.target.views == "independent" else 1),
        order,
        first_step=state.step,
        workers=config.workers,
        device=device,
    )
    views_a_step = config.batch_size * config.views
    running.stop.watched = True  # from here on: save first, then stop
    with (
        Progress(
            "pre-training", plan.steps, first=state.step, per_step=views_a_step, unit="views"
        ) as progress,
        memory_advice(_MEMORY),
    ):
        train(
            trainable,
            batches,
            plan,
            state,
            checkpoint,
            job=running,
            progress=progress,
            on_row=each_epoch,
        )

    # ---- What came out.
    if monitor is not None:
        monitor.close()
    running.results = {
        "checkpoint": checkpoint.path.name,
        "sha256": file_sha256(checkpoint.path) if distributed.is_main() else "",
        "steps": state.step,
        "views_seen": state.step * views_a_step,
        "views_per_second": round(progress.rate * views_a_step, 1),
        "peak_learning_rate": peak_learning_rate(config),
    }
    last = state.curve[-1] if state.curve else {}
    running.results |= {k: v for k, v in last.items() if k not in ("spectrum", "step")}
    log.info("done: %s", checkpoint.path)
    return running.results


def _images(config: Config, running: Job) -> ImageList:
    images = training_images(config.data, classes_file=config.classes_file)
    if config.classes_file is not None:  # which classes, wherever the file is
        names = "\n".join(images.classes).encode()
        running.record.resolve(classes_file=hashlib.sha256(names).hexdigest())
    if note := images.ignored_files():
        running.warn(note)
    if config.skip_unreadable:
        # One process decides: a passing failure to read must not give each process other images.
        images = images.without(distributed.from_main(lambda: _unreadable(images)))
        if images.skipped:
            running.warn(f"{len(images.skipped)} unreadable files are left out")
    if config.max_images is not None:
        images = balanced_subset(images, config.max_images, seed=config.seed)
    running.record.content["data"] = {
        "root": str(images.root),
        "images": len(images),
        "classes": len(images.classes),
        "fingerprint": images.fingerprint,
        "skipped": len(images.skipped),
        "skipped_files": list(images.skipped[:100]),
    }
    return images


def _unreadable(images: ImageList) -> tuple[str, ...]:
    with Progress("checking every file", len(images), unit="files") as progress:
        return unreadable(images, progress=lambda done, _: progress.update(done))


def _augmentations(config: Config) -> tuple[Augmentation, ...]:
    given = {
        name: value
        for name, value in vars(config.augment).items()
        if name not in ("policy", "size") and value is not None
    }
    return policy(config.augment.policy, config.augment.size, **given)


def _monitor(
    config: Config,
    running: Job,
    images: ImageList,
    augmentations: tuple[Augmentation, ...],
    first_step: int,
) -> Monitor | None:
    if not distributed.is_main():
        return None
    labels = images.labels
    enough = labels is not None and labels.ndim == 1 and np.bincount(labels).min() >= 4
    if not enough:
        log.info("no kNN monitor: it needs class folders of at least 4 images each")
    return Monitor(
        running.output,
        config.diagnostics,
        views=fixed_views(images, augmentations, count=config.diagnostics.images, seed=config.seed),
        labeled=images if enough else None,
        size=config.augment.size,
        device=running.device,
        first_step=first_step,
    )


def _header(config: Config, images: ImageList, order: Order) -> Callable[[int], dict[str, Any]]:
    """What a checkpoint says of itself after a number of steps."""

    def header(step: int) -> dict[str, Any]:
        return {
            "arch": config.arch,
            "image_size": config.augment.size,
            "config": plain(config),
            "data": {"fingerprint": images.fingerprint, "images": len(images)},
            "step": step,
            "steps": order.steps,
        }

    return header


def _resume(
    trainable: PreTraining,
    state: State,
    checkpoint: Checkpoint,
    running: Job,
    images: ImageList,
) -> None:
    require_record(checkpoint.path, running.resumed)
    content = load_checkpoint(checkpoint.path)
    if content["data"]["fingerprint"] != images.fingerprint:
        raise UserError(
            f"{checkpoint.path} was trained on {content['data']['images']} images that are not the "
            f"{len(images)} of {images.root}: files were added, removed or changed.\n"
            "Put them back to continue, or start anew in another --output."
        )
    if warning := checkpoint.restore(trainable, state, content):
        running.warn(warning)
    log.info("continuing from step %d of %d", state.step, content["steps"])


if __name__ == "__main__":
    main(run, *OPTIONS)
