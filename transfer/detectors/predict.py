"""Predictions of a detector of either engine for every scene."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msbreg.data.run_lengths import encode
from msbreg.data.scenes import Prediction, Scenes
from msbreg.run import distributed
from msbreg.run.failures import raise_first, to_other_processes
from msbreg.run.progress import Progress
from msbreg.train.health import NotFinite
from transfer.detectors.mapper import MapperSettings, Sample
from transfer.detectors.samples import testing_batches, testing_share

OUTPUTS = ("proposal_generator.rpn_head", "roi_heads.box_predictor")
"""Modules (in both engines) that output scores and boxes before any of them are discarded."""


@torch.no_grad()
def predict(
    model: nn.Module,
    scenes: Scenes,
    settings: MapperSettings,
    *,
    workers: int = 0,
    each_scene: Callable[[], None] = lambda: None,
) -> list[Prediction]:
    """Predictions for all scenes, in their order, on every process; the model is left in eval mode.

    Images are processed one by one, as in Detectron2: padding in a batch would change boxes by rounding.

    Args:
        workers: processes that decode images.
        each_scene: called after each scene; may raise to stop.

    Raises:
        NotFinite: scores or boxes are not finite. Detectron2 discards these, so that a diverged detector
            looks like one that finds nothing.
        UserError: an image cannot be read.

    These errors, and out-of-memory errors, are raised on every process once all have finished their shares.
    """
    model.eval()
    world, rank = distributed.world_size(), distributed.rank()
    mine = len(testing_share(len(scenes.scenes), rank=rank, world=world))
    found: list[Prediction] = []
    batches = testing_batches(scenes, settings, rank=rank, world=world, workers=workers)
    failure: Exception | None = None
    try:
        with (
            contextlib.closing(batches),
            Progress("predicting", mine, unit="images") as progress,
            _finite_outputs(model) as finite,
        ):
            for (sample,) in batches:
                found.append(_prediction(model, sample))
                if finite and not torch.stack(finite).all():
                    raise _not_finite(f"image {sample.scene!r} of {scenes.name}")
                finite.clear()
                progress.update(len(found))
                each_scene()
    except Exception as error:  # noqa: BLE001 - raised below, on every process
        failure = error
    # Gather also after a failure: the other processes wait for this one.
    shares = distributed.gather_objects((found, to_other_processes(failure)))
    raise_first(failure, [other for _, other in shares])
    return [prediction for share, _ in shares for prediction in share]


def _not_finite(where: str) -> NotFinite:
    return NotFinite(
        f"the detector's scores or boxes for {where} are not finite numbers.\n"
        "It has diverged, or its input differs from that in training. Give another checkpoint, or check "
        "INPUT.FORMAT, MODEL.PIXEL_MEAN and PIXEL_STD."
    )


@contextlib.contextmanager
def _finite_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives, for every output tensor of the OUTPUTS modules, whether it is finite."""
    finite: list[Tensor] = []

    def check(module: nn.Module, inputs: Any, outputs: Any) -> None:
        finite.extend(value.isfinite().all() for value in _tensors(outputs))

    hooks = [m.register_forward_hook(check) for n, m in model.named_modules() if n in OUTPUTS]
    try:
        yield finite
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _prediction(model: nn.Module, sample: Sample) -> Prediction:
    (found,) = model([sample])
    return Prediction(
        sample.scene,
        boxes=found.boxes.float().cpu().numpy(),
        scores=found.scores.float().cpu().numpy(),
        labels=found.labels.cpu().numpy().astype(np.int64),
        masks=None if found.masks is None else encode(found.masks.cpu().numpy()),
        keypoints=None if found.keypoints is None else found.keypoints.float().cpu().numpy(),
    )
