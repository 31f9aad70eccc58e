"""Results of a detection run: predictions, scores, tables and drawings."""

import json
import math
from collections.abc import Sequence
from typing import Any

from msbreg.data.scenes import Prediction, Scenes
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from transfer.drawing.detection_sheets import write_drawings
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.lvis_ap import lvis_ap
from transfer.scoring.predictions import save_predictions
from transfer.scoring.scores import THRESHOLDS, DataId, DetectionScores, Score
from transfer.scoring.voc_ap import voc_ap
from transfer.verdicts.measured import Measured, measured, record_scores
from transfer.verdicts.outcome_kinds import detection_outcomes
from transfer.verdicts.outcomes import digest_of_units

PREDICTIONS = "predictions.npz"
PER_CLASS = "per_class.json"
BY_CLASS, BY_FREQUENCY = ("AP", "AP50", "AP75"), ("APr", "APc", "APf")
_AT = {"AP50": THRESHOLDS.index(0.5), "AP75": THRESHOLDS.index(0.75)}


def score(scenes: Scenes, predictions: Sequence[Prediction]) -> dict[str, DetectionScores]:
    """Scores of ``box`` and, for a detector with masks or keypoints, of ``mask`` and ``keypoint``.

    The metric is LVIS's if the data set is federated, else COCO's if it has COCO category ids, else VOC's.
    """
    if not scenes.category_ids:
        return {"box": voc_ap(scenes, predictions)}
    average_precision = coco_ap if scenes.federation is None else lvis_ap
    scores: dict[str, DetectionScores] = {"box": average_precision(scenes, predictions)}
    if any(prediction.masks is not None for prediction in predictions):
        scores["mask"] = average_precision(scenes, predictions, "segm")
    if any(prediction.keypoints is not None for prediction in predictions):
        scores["keypoint"] = coco_ap(scenes, predictions, "keypoints")
    return scores


def numbers(scores: dict[str, DetectionScores]) -> dict[str, float | None]:
    """``box_AP``, ``box_AP50``, ``box_AP75``, ... in percent; None if there is nothing to score."""
    return {
        f"{kind}_{name}": value
        for kind, of_kind in scores.items()
        for name, value in of_kind.summary().items()
    }


def scores_of(
    scores: dict[str, DetectionScores],  # by "box", "mask" and "keypoint"
    data: DataId,
    images: int,
    units: str,
) -> list[Measured]:
    """AP, AP50 and AP75, with their values by class, and LVIS's APr, APc and APf.

    Args:
        images: number of images of the split.
        units: digest of their ids.
    """
    return [
        _measured(kind, name, of_kind, data, images, units)
        for kind, of_kind in scores.items()
        for name in (*BY_CLASS, *BY_FREQUENCY)
        if name in of_kind.numbers
    ]


def _measured(
    kind: str, name: str, of_kind: DetectionScores, data: DataId, images: int, units: str
) -> Measured:
    """One number of a metric as a score."""
    per_class = None
    if name in BY_CLASS:
        values = {str(row["class"]): row[name] for row in of_kind.table()}
        per_class = {k: math.nan if v is None else float(v) for k, v in values.items()}
    score = Score(
        name=f"{kind} {name}",
        value=of_kind.numbers[name],
        data=data,
        rules=of_kind.metric,
        n=images,
        per_class=per_class,
    )
    chosen = range(len(of_kind.thresholds))
    if name in _AT:
        chosen = range(_AT[name], _AT[name] + 1)
    outcomes = detection_outcomes(
        score,
        units,
        of_kind.matches,
        thresholds=tuple(chosen),
        frequency=name[-1] if name in BY_FREQUENCY else "",
    )
    return measured(score, outcomes)


def write(
    job: Job, scenes: Scenes, predictions: Sequence[Prediction], iteration: int
) -> dict[str, DetectionScores]:
    """Write predictions, scores, tables and drawings to the run's folder; only one process calls this.

    Raises:
        RunFailed: a file cannot be written.
    """
    record = job.record.content
    about: dict[str, Any] = {
        "iteration": iteration,
        "digest": record["digest"],
        "engine": record["engine"]["name"],
        "network": {name: record["network"].get(name) for name in ("name", "source", "sha256")},
    }
    if scenes.keypoints is not None:
        about["oks_sigmas"] = scenes.keypoints.sigmas
    save_predictions(job.output / PREDICTIONS, scenes, predictions, about)
    scores = score(scenes, predictions)
    tables = {k: {"metric": s.metric, "classes": s.table()} for k, s in scores.items()}
    content = (json.dumps(tables, indent=1) + "\n").encode()
    write_atomically(job.output / PER_CLASS, content)
    drawings = write_drawings(job.output, scenes, predictions, scores)
    tested = record["data"]["test"]
    data = DataId(scenes.name, "", tested["fingerprint"])
    units = digest_of_units(scene.id for scene in scenes.scenes)
    record_scores(job, scores_of(scores, data, tested["images"], units))
    record["drawings"] = drawings
    record["metric"] = ", ".join(of_kind.metric for of_kind in scores.values())
    log.info("after iteration %d, %s", iteration, format_scores(scores))
    return scores


def format_scores(scores: dict[str, DetectionScores]) -> str:
    """Scores as text, such as ``VOC 11-point: box AP 12.3, AP50 34.5, AP75 5.6``."""
    metric = next(iter(scores.values())).metric.removesuffix(" AP").removesuffix(" bbox")
    return f"{metric}: " + "; ".join(
        f"{kind} " + ", ".join(f"{n} {of_kind.numbers[n]:.1f}" for n in ("AP", "AP50", "AP75"))
        for kind, of_kind in scores.items()
    )
