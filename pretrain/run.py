"""Pre-train a backbone without labels: MSBReg (arXiv 2207.03552) or BYOL.

Without arguments: the embedded digits. With torchrun: any number of processes. Stopped by Ctrl-C,
SIGTERM or worse, the same command continues where the last checkpoint was.
"""

import sys
import time
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from msbreg.checkpoints.load import file_sha256, load_checkpoint, load_exactly, save_checkpoint
from msbreg.data.folder import ImageList, balanced_subset, without_unreadable
from msbreg.data.sources import DATASETS, training_images
from msbreg.run import distributed
from msbreg.run.config import Card, Interrupted, main, plain
from msbreg.run.errors import UserError
from msbreg.run.job import AlreadyFinished, Job, job, log
from msbreg.run.progress import Progress
from msbreg.train.optimizers import LARS, lars_groups
from pretrain.loop import State, check_finite, peak_learning_rate, train
from pretrain.monitor import Monitor, describe
from pretrain.networks import build_networks
from pretrain.recipe import Config
from pretrain.view_batches import Order, batches_of_views, fixed_views
from pretrain.views import Augmentation, policy

CHECKPOINT = "checkpoint.pth"


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Train from the settings alone; returns the results that the record holds."""
    try:
        with job(config, card, kind="pretrain", resume_file=CHECKPOINT) as running:
            return _run(config, card, running)
    except AlreadyFinished as finished:
        log.info("%s holds this run, finished: left as it is.", finished)
        return {}


def _run(config: Config, card: Card, running: Job) -> dict[str, Any]:
    device = running.device

    # ---- The images, and the order in which they come.
    images = _images(config, running)
    world, rank = distributed.world_size(), distributed.rank()
    order = Order(len(images), config.batch_size, config.epochs, config.seed, world, rank)
    augmentations = _augmentations(config)

    # ---- The networks; a checkpoint in the folder continues.
    state = _new_state(config, device)
    checkpoint = running.output / CHECKPOINT
    if checkpoint.exists():
        _resume(state, checkpoint, running, images)
    log.info(
        "%s, %s on %d images: %d epochs of %d steps, %d x %d views a step, on %s",
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
            "BatchNorm statistics are each process's own: there is no SyncBatchNorm on CPUs"
        )

    if card.name == "defaults" and config.data not in DATASETS:
        running.warn("the settings are the digits recipe's; configs/ has cards for other data")

    # ---- What is watched.
    monitor = _monitor(config, running, images, augmentations, state.step)
    if monitor is not None and not state.curve:
        state.curve.append({"epoch": 0, "step": 0} | monitor.look(state.online))
        monitor.write(state.curve)
        log.info("%s  (before training)", describe(state.curve[0]))

    # ---- The loop.
    views_a_step = config.batch_size * config.views
    started, first_step, saved = time.monotonic(), state.step, time.monotonic()

    def each_epoch(state: State, row: dict[str, Any]) -> None:
        seconds = time.monotonic() - started
        row["images_per_second"] = (state.step - first_step) * config.batch_size / seconds
        if monitor is not None:
            if row["epoch"] % config.diagnostics.every == 0 or row["epoch"] == config.epochs:
                row |= monitor.look(state.online)
                if collapse := monitor.collapse(row):
                    running.warn(f"epoch {row['epoch']}: {collapse}")
            log.info("%s", describe(row))
        state.curve.append(row)
        if monitor is not None:
            monitor.write(state.curve)

    def each_step(state: State) -> None:
        nonlocal saved
        progress.update(state.step)
        due = time.monotonic() - saved >= config.save_seconds
        if distributed.any_process(due or bool(running.stop), device):
            stop = distributed.any_process(bool(running.stop), device)
            _save(state, checkpoint, config, images, order.steps)
            saved = time.monotonic()
            if stop and state.step < order.steps:
                raise Interrupted(
                    f"{running.stop.name or 'a signal to another process'} at step {state.step} of "
                    f"{order.steps}; saved. The same command continues."
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
    running.stop.watched = True  # from here on: save first, then stop
    label = "pre-training"
    with Progress(
        label, order.steps, first=state.step, per_step=views_a_step, unit="views"
    ) as progress:
        train(
            state,
            batches,
            config=config,
            device=device,
            steps=order.steps,
            steps_per_epoch=order.steps_per_epoch,
            each_step=each_step,
            each_epoch=each_epoch,
        )
    _save(state, checkpoint, config, images, order.steps)

    # ---- What came out.
    if monitor is not None:
        monitor.close()
    running.results = {
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint) if distributed.is_main() else "",
        "steps": state.step,
        "views_seen": state.step * views_a_step,
        "views_per_second": round(progress.rate * views_a_step, 1),
        "peak_learning_rate": peak_learning_rate(config),
    }
    last = state.curve[-1] if state.curve else {}
    running.results |= {k: v for k, v in last.items() if k not in ("spectrum", "step")}
    log.info("done: %s", checkpoint)
    return running.results


def _images(config: Config, running: Job) -> ImageList:
    images = training_images(config.data, classes_file=config.classes_file)
    if config.skip_unreadable:
        with Progress("looking at every file", len(images), unit="files") as progress:
            images = without_unreadable(images, progress=lambda done, _: progress.update(done))
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


def _augmentations(config: Config) -> tuple[Augmentation, ...]:
    given = {
        name: value
        for name, value in vars(config.augment).items()
        if name not in ("policy", "size") and value is not None
    }
    return policy(config.augment.policy, config.augment.size, **given)


def _new_state(config: Config, device: torch.device) -> State:
    online, target = build_networks(
        config.arch,
        hidden=config.head.hidden,
        out=config.head.out,
        norm=config.head_norm,
        seed=config.seed,
    )
    if config.sync_bn:
        distributed.synchronize_batch_norm(online, device)
        distributed.synchronize_batch_norm(target, device)
    online.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    target.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = LARS(
        lars_groups(online, weight_decay=config.optimizer.weight_decay),
        lr=0.0,  # set at every step
        momentum=config.optimizer.momentum,
        trust=config.optimizer.trust,
    )
    return State(online, target, optimizer)


def _monitor(
    config: Config,
    running: Job,
    images: ImageList,
    augmentations: tuple[Augmentation, ...],
    first_step: int,
) -> Monitor | None:
    if not distributed.is_main():
        return None
    enough = images.labels is not None and np.bincount(images.labels).min() >= 4
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


def _save(state: State, path: Path, config: Config, images: ImageList, steps: int) -> None:
    """All that a resume needs. Every random number of the loop is a function of (seed, step) or of
    (seed, epoch, image); the generators' states are kept for what users may add."""
    check_finite(state)
    generators: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    every_process = distributed.gather_objects(generators)
    if distributed.is_main():
        save_checkpoint(
            path,
            {
                "arch": config.arch,
                "image_size": config.augment.size,
                "config": plain(config),
                "data": {"fingerprint": images.fingerprint, "images": len(images)},
                "online": state.online.state_dict(),
                "target": state.target.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "generators": every_process,
                "step": state.step,
                "steps": steps,
                "decay_product": state.decay_product,
                "sums": state.sums,
                "curve": state.curve,
            },
        )
    distributed.barrier()


def _resume(state: State, path: Path, running: Job, images: ImageList) -> None:
    if not running.resumed:
        raise UserError(
            f"{path} lies in an output folder without the record of its run; "
            "give another --output, or move the file away"
        )
    content = load_checkpoint(path)
    if content["data"]["fingerprint"] != images.fingerprint:
        raise UserError(
            f"{path} was trained on {content['data']['images']} images that are not the "
            f"{len(images)} of {images.root}: files were added, removed or changed.\n"
            "Put them back to continue, or start anew in another --output."
        )
    load_exactly(state.online, content["online"], path)
    load_exactly(state.target, content["target"], path)
    state.optimizer.load_state_dict(content["optimizer"])
    for name in ("step", "decay_product", "sums", "curve"):
        setattr(state, name, content[name])
    generators = content["generators"]
    if len(generators) == distributed.world_size():
        mine = generators[distributed.rank()]
        torch.set_rng_state(mine["cpu"])
        if torch.cuda.is_available() and "cuda" in mine:
            torch.cuda.set_rng_state(mine["cuda"])
    else:
        running.warn(
            f"continued on {distributed.world_size()} processes, begun on {len(generators)}: "
            "sums of gradients may differ in the last bit"
        )
    log.info("continuing from step %d of %d", state.step, content["steps"])


if __name__ == "__main__":
    main(Config, run)
