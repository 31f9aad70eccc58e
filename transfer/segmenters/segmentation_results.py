"""Predictions, scores, tables and drawings of a segmentation run."""

import contextlib
import functools
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from msbreg.backbones.spec import Normalization
from msbreg.data.digits.writers import voc_palette
from msbreg.data.loading import stream
from msbreg.data.segmentation.label_maps import LabelMaps
from msbreg.run import distributed
from msbreg.run.failures import raise_first, to_other_processes
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from msbreg.train.health import NotFinite
from transfer.drawing.segmentation_sheets import SHEET, segmentation_sheet
from transfer.frozen.evaluation import units_of
from transfer.scoring.iou import SegmentationScores, confusion, overlaps, without_boundaries
from transfer.scoring.scores import DataId, Score
from transfer.segmenters.fcn import Segmenter
from transfer.segmenters.segmentation_config import InferenceOptions
from transfer.segmenters.windows import label_pixels
from transfer.verdicts.measured import Measured, measured, record_scores
from transfer.verdicts.outcome_kinds import mean_iou_outcomes, ratio_outcomes

PREDICTIONS = "predictions"
PER_CLASS = "per_class.json"
PALETTE = bytes(voc_palette())


@dataclass(frozen=True)
class Evaluation:
    """The split to evaluate, and how.

    Attributes:
        folder: where predictions are written as PNG, under the names of their images; None writes none.
        each: called after each image; may raise to stop.
    """

    source: LabelMaps
    options: InferenceOptions
    normalization: Normalization
    device: torch.device
    folder: Path | None
    workers: int = 0
    each: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Pairs:
    """Reads an image and its label map in a worker process."""

    source: LabelMaps

    def __call__(self, i: int) -> tuple[int, np.ndarray, np.ndarray]:
        return i, self.source.image(i), self.source.label(i)


def _first(items: list[Any]) -> Any:
    return items[0]


def evaluate(network: Segmenter, evaluation: Evaluation) -> SegmentationScores:
    """Label every image, write the predictions, and score them; the network is left in eval mode.

    Each process takes every world-th image. Images pass one by one, at their own size.

    Raises:
        NotFinite: the logits of an image are not finite.
        UserError: an image or a label map cannot be read.

    These errors are raised in every process once all have finished their shares.
    """
    network.eval()
    source, classes = evaluation.source, evaluation.source.classes
    mine = range(distributed.rank(), len(source), distributed.world_size())
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    by_image = np.zeros((len(source), 2, len(classes)), np.int32)
    failure: Exception | None = None
    try:
        pairs = stream(
            _Pairs(source), lambda: ([i] for i in mine), _first, workers=evaluation.workers
        )
        with (
            contextlib.closing(pairs),
            Progress("predicting", len(mine), unit="images") as progress,
        ):
            for number, (i, image, truth) in enumerate(pairs, 1):
                own = _confusion_of(network, evaluation, i, image, truth)
                matrix += own
                by_image[i] = overlaps(own)
                progress.update(number)
                evaluation.each()
    except Exception as error:  # noqa: BLE001 - raised below, in every process
        failure = error
    # Gather also after a failure: the other processes wait for this one.
    shares = distributed.gather_objects((matrix, by_image, to_other_processes(failure)))
    raise_first(failure, [other for _, _, other in shares])
    total: np.ndarray = sum(share for share, _, _ in shares)
    return SegmentationScores(classes, total, sum(share for _, share, _ in shares))


def _confusion_of(
    network: Segmenter, evaluation: Evaluation, i: int, image: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    options, source = evaluation.options, evaluation.source
    try:
        found = label_pixels(network, image, options, evaluation.normalization, evaluation.device)
    except NotFinite as error:
        raise NotFinite(f"{source.name(i)}: {error}") from error
    if evaluation.folder is not None:
        save_labels(evaluation.folder / prediction_name(source, i), found)
    scored = without_boundaries(truth, options.ignore_boundary)
    return confusion(scored, found, len(source.classes))


def prediction_name(source: LabelMaps, i: int) -> str:
    """The relative path of a prediction: that of the image, with the suffix of PNG."""
    return str(Path(source.entry(i)).with_suffix(".png"))


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label map as a palette PNG with VOC's colors.

    Raises:
        RunFailed: the file cannot be written.
    """
    image = Image.fromarray(labels)
    image.putpalette(PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


# ---- Results


def numbers(scores: SegmentationScores) -> dict[str, float | None]:
    """``mIoU`` and ``pixel_accuracy`` in percent; None if undefined."""
    values = {"mIoU": scores.mean_iou, "pixel_accuracy": scores.pixel_accuracy}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def rules(options: InferenceOptions) -> str:
    """How the images are evaluated, for tables.

    >>> rules(InferenceOptions())
    'whole images, totals over the set'
    """
    crop = f"{options.crop[0]} x {options.crop[1]}"
    parts = [
        {
            "whole": "whole images",
            "center": f"central {crop} crops",
            "slide": f"windows of {crop}, stride {options.stride[0]} x {options.stride[1]}",
        }[options.mode]
    ]
    if options.base:
        parts.append(f"fitted into {options.base[0]} x {options.base[1]}")
    if len(options.scales) > 1 or options.scales[0] != 1:
        parts.append(f"scales {', '.join(f'{scale:g}' for scale in options.scales)}")
    if options.flip:
        parts.append("mirrored")
    if options.ignore_boundary:
        parts.append(f"without {options.ignore_boundary} pixels around boundaries")
    return ", ".join([*parts, "totals over the set"])


def write(
    job: Job,
    source: LabelMaps,
    scores: SegmentationScores,
    data: DataId,
    *,
    rules: str,
    prefix: str = "",
) -> None:
    """Write scores, the table of classes and drawings to the run's folder; one process calls this.

    Args:
        rules: how the images were labeled.
        prefix: of the names of the scores, such as ``30-NN ``.

    Raises:
        RunFailed: a file cannot be written.
    """
    content = {"rules": rules, "classes": scores.table()}
    write_atomically(job.output / PER_CLASS, (json.dumps(content, indent=1) + "\n").encode())
    buffer = io.BytesIO()
    sheet = segmentation_sheet(
        source, lambda i: job.output / PREDICTIONS / prediction_name(source, i)
    )
    sheet.save(buffer, "WEBP", quality=80)
    write_atomically(job.output / SHEET, buffer.getvalue())
    record = job.record.content
    shared = functools.partial(Score, data=data, rules=rules, n=len(source))
    per_class = dict(zip(scores.classes, scores.iou.tolist(), strict=True))
    mean = shared(f"{prefix}mIoU", scores.mean_iou, per_class=per_class)
    record_scores(
        job,
        _measured(scores, mean, shared(f"{prefix}pixel accuracy", scores.pixel_accuracy), source),
    )
    record["drawings"] = [SHEET]
    if scores.absent:
        job.warn(
            f"classes without any true or predicted pixel are not in the mean: {', '.join(scores.absent)}"
        )
    log.info("mIoU %.2f %%, pixel accuracy %.2f %%", scores.mean_iou, scores.pixel_accuracy)


def _measured(
    scores: SegmentationScores, mean_iou: Score, pixel_accuracy: Score, source: LabelMaps
) -> list[Measured]:
    """Both scores with the pixels of each image."""
    assert scores.by_image is not None
    units = units_of(source)
    hits, unions = scores.by_image[:, 0], scores.by_image[:, 1]
    correct = hits.sum(axis=1, dtype=np.int64)
    # A wrong pixel is in the unions of two classes, a correct one in that of one.
    labeled = (correct + unions.sum(axis=1, dtype=np.int64)) // 2
    return [
        measured(mean_iou, mean_iou_outcomes(mean_iou, units, hits, unions)),
        measured(
            pixel_accuracy, ratio_outcomes(pixel_accuracy, units, correct, labeled, scale=100)
        ),
    ]
