"""Save predictions, score them, and write tables and drawings, in this order."""

import json
import math
from collections.abc import Sequence

from msbreg.data.scenes import Prediction, Scenes
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from transfer.drawing.detection_sheets import write_drawings
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.detection_scores import DetectionScores
from transfer.scoring.predictions import save_predictions
from transfer.scoring.score import DataId, Score
from transfer.scoring.voc_ap import voc_ap

PREDICTIONS = "predictions.npz"
PER_CLASS = "per_class.json"


def score(scenes: Scenes, predictions: Sequence[Prediction]) -> dict[str, DetectionScores]:
    """Scores of ``box`` and, for a detector with masks, of ``mask``.

    The metric is COCO's if the data set has COCO's category ids, VOC's otherwise.
    """
    if not scenes.category_ids:
        return {"box": voc_ap(scenes, predictions)}
    scores: dict[str, DetectionScores] = {"box": coco_ap(scenes, predictions)}
    if any(prediction.masks is not None for prediction in predictions):
        scores["mask"] = coco_ap(scenes, predictions, "segm")
    return scores


def numbers(scores: dict[str, DetectionScores]) -> dict[str, float | None]:
    """``box_AP``, ``box_AP50``, ``box_AP75``, ... in percent; None where there is nothing to score."""
    return {
        f"{kind}_{name}": value
        for kind, of_kind in scores.items()
        for name, value in of_kind.summary().items()
    }


def scores_of(
    scores: dict[str, DetectionScores],  # by "box" and "mask"
    data: DataId,
    images: int,
) -> list[Score]:
    """AP, AP50 and AP75 of boxes and of masks, each with its value for every class."""
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
            },
        )
        for kind, of_kind in scores.items()
        for name in ("AP", "AP50", "AP75")
    ]


def write(
    running: Job, scenes: Scenes, predictions: Sequence[Prediction], iteration: int
) -> dict[str, DetectionScores]:
    """Write predictions, then scores, tables and drawings to the run's folder; one process calls it.

    Raises:
        RunFailed: a file cannot be written.
    """
    record = running.record.content
    about = {
        "iteration": iteration,
        "digest": record["digest"],
        "engine": record["engine"]["name"],
        "network": {name: record["network"].get(name) for name in ("name", "source", "sha256")},
    }
    save_predictions(running.output / PREDICTIONS, scenes, predictions, about)
    scores = score(scenes, predictions)
    tables = {k: {"metric": s.metric, "classes": s.table()} for k, s in scores.items()}
    content = (json.dumps(tables, indent=1) + "\n").encode()
    write_atomically(running.output / PER_CLASS, content)
    drawings = write_drawings(running.output, scenes, predictions, scores)
    tested = record["data"]["test"]
    data = DataId(scenes.name, "", tested["fingerprint"])
    record["scores"] = [s.as_dict() for s in scores_of(scores, data, tested["images"])]
    record["drawings"] = drawings
    record["metric"] = ", ".join(of_kind.metric for of_kind in scores.values())
    log.info("after iteration %d, %s", iteration, in_words(scores))
    return scores


def in_words(scores: dict[str, DetectionScores]) -> str:
    """``VOC 11-point: box AP 12.3, AP50 34.5, AP75 5.6``."""
    metric = next(iter(scores.values())).metric.removesuffix(" AP").removesuffix(" bbox")
    return f"{metric}: " + "; ".join(
        f"{kind} " + ", ".join(f"{n} {of_kind.numbers[n]:.1f}" for n in ("AP", "AP50", "AP75"))
        for kind, of_kind in scores.items()
    )
