"""Results of a detection run: predictions, scores, tables and drawings; and the spread over trials."""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msbreg.data.scenes import Prediction, Scenes
from msbreg.run.config import Card, plain
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log, log_to_terminal
from msbreg.run.record import read_record
from transfer.drawing.detection_sheets import write_drawings
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.lvis_ap import lvis_ap
from transfer.scoring.predictions import save_predictions
from transfer.scoring.scores import DataId, DetectionScores, Score
from transfer.scoring.voc_ap import voc_ap

PREDICTIONS = "predictions.npz"
PER_CLASS = "per_class.json"
BY_CLASS, BY_FREQUENCY = ("AP", "AP50", "AP75"), ("APr", "APc", "APf")


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
) -> list[Score]:
    """AP, AP50 and AP75, with their values by class, and LVIS's APr, APc and APf."""
    return [
        Score(
            name=f"{kind} {name}",
            value=of_kind.numbers[name],
            data=data,
            rules=of_kind.metric,
            n=images,
            per_class={
                str(row["class"]): math.nan if (value := row[name]) is None else float(value)
                for row in of_kind.table()
            }
            if name in BY_CLASS
            else None,
        )
        for kind, of_kind in scores.items()
        for name in (*BY_CLASS, *BY_FREQUENCY)
        if name in of_kind.numbers
    ]


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
    record["scores"] = [s.as_dict() for s in scores_of(scores, data, tested["images"])]
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


# ---- Several trials with different seeds (MoCo reports the mean of five on VOC)


C = TypeVar("C")
FILE = "trials.json"


def run_trials(
    config: C, card: Card | None, run: Callable[[C, Card | None], Any]
) -> dict[str, Any]:
    """Run seeds 0 to N - 1 in OUTPUT/trial-0, ...; finished trials are skipped.

    Args:
        config: a config with output, trials, seed and finished.
        run: runs one trial.

    Returns:
        For each result: mean, sample standard deviation over the trials, and the values.
    """
    log_to_terminal()
    settings: Any = config
    output = Path(settings.output).expanduser()
    if read_record(output) is not None:
        raise UserError(
            f"output folder {output} contains a single run; give another --output for --trials"
        )
    folders = [output / f"trial-{seed}" for seed in range(settings.trials)]
    for seed, folder in enumerate(folders):
        log.info("---- trial %d of %d, seed %d", seed + 1, settings.trials, seed)
        changes = {"output": folder, "seed": seed, "trials": 1, "finished": "skip"}
        run(dataclasses.replace(settings, **changes), card)
    if int(os.environ.get("RANK", "0")):
        return {}  # torchrun's first process writes the records
    found = [_results(folder) for folder in folders]
    summary = {
        name: spread([one[name] for one in found]) for name in found[0] if _is_number(found, name)
    }
    content = {"trials": settings.trials, "folders": [f.name for f in folders], "results": summary}
    write_atomically(output / FILE, (json.dumps(plain(content), indent=2) + "\n").encode())
    for name, values in summary.items():
        log.info("%s: %.2f ± %.2f", name, values["mean"], values["std"])
    return summary


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and sample standard deviation.

    >>> spread([1.0, 3.0])
    {'mean': 2.0, 'std': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def _results(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None, "a trial writes a record"
    return record["results"]


def _is_number(found: list[dict[str, Any]], name: str) -> bool:
    """Whether every trial has a number of that name; the AP of small objects is None without any."""
    return all(isinstance(one.get(name), float) for one in found)
