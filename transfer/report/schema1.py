"""Scores of records of schema 1, which contain named results instead of scores.

Only this module knows these names. Current records contain scores (transfer/scoring/scores.py).
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.json_files import Shape, is_number, misfits, read_json
from msbreg.run.record import FILE_NAME
from transfer.scoring.scores import DataId, Score

Found = tuple[list[Score], list[str]]  # scores, and messages about files that could not be read
PerClass = dict[str, dict[str, float]]  # name of a score -> class -> value

_SPLIT: Shape = {"images": int, "fingerprint": str}


def scores_of(folder: Path, record: dict[str, Any]) -> Found:
    """The scores of a finished run, and messages about missing per-class scores.

    Raises:
        UserError: the record is not complete for a run of its kind.
    """
    reader = _READERS.get(record["kind"])
    return reader(folder, record) if reader else ([], [])


def _knn(folder: Path, record: dict[str, Any]) -> Found:
    _require(folder, record, {"config": {"data": str}, "data": {"val": _SPLIT}})
    config, results = record["config"], record["results"]
    weighted = config.get("vote") != "majority"
    weights = f"exp(s / {config.get('temperature', 0.07)})" if weighted else "equal"
    found = []
    for name in results:
        match = re.fullmatch(r"top1_(\d+)nn", name)
        if match and is_number(results[name]):
            rules = f"cosine similarity s, {match[1]} neighbors, weights {weights}"
            found.append(_classified(record, f"{match[1]}-NN top-1", rules, name))
    return found, []


def _linear(folder: Path, record: dict[str, Any]) -> Found:
    _require(folder, record, {"config": {"data": str}, "data": {"val": _SPLIT}})
    if not is_number(record["results"].get("top1")):
        return [], []
    held = record["results"].get("held_out_top1")
    chosen = "learning rate chosen on held-out training images" if held else "one learning rate"
    rules = f"linear layer on frozen features, {chosen}"
    return [_classified(record, "linear top-1", rules, "top1")], []


def _classified(record: dict[str, Any], name: str, rules: str, key: str) -> Score:
    results, split = record["results"], record["data"]["val"]
    stderr = results.get(f"{key}_stderr")
    return Score(
        name,
        float(results[key]),
        DataId(_data_name(record), "val", split["fingerprint"]),
        rules,
        split["images"],
        stderr=float(stderr) if is_number(stderr) else None,
    )


def _svm(folder: Path, record: dict[str, Any]) -> Found:
    split = str(record["config"].get("test_split", "test"))
    _require(folder, record, {"config": {"data": str}, "data": {split: _SPLIT}})
    value, tested = record["results"].get("map"), record["data"][split]
    if not is_number(value):
        return [], []
    per_class, problems = _per_class(folder, lambda content: {"SVM mAP": _column(content, "ap")})
    data = DataId(_data_name(record), split, tested["fingerprint"])
    excluded = record["config"].get("difficult_test") != "negative"
    rules = "mean over classes of the interpolated AP; images with difficult objects only are " + (
        "excluded" if excluded else "negatives"
    )
    mean = Score("SVM mAP", float(value), data, rules, tested["images"])
    return [_with_classes(mean, per_class)], problems


def _detection(folder: Path, record: dict[str, Any]) -> Found:
    _require(folder, record, {"engine": {"name": str}, "data": {"test": {"name": str, **_SPLIT}}})
    tested, results = record["data"]["test"], record["results"]
    metric = record.get("metric", "")
    parts = metric.split(", ")
    metrics = parts if len(parts) == 2 and all(p.endswith(" AP") for p in parts) else [metric] * 2
    data = DataId(tested["name"], "", tested["fingerprint"])
    per_class, problems = _per_class(folder, _by_detector)
    found = [
        Score(f"{what} {name}", float(value), data, rules, tested["images"])
        for what, rules in zip(("box", "mask"), metrics, strict=True)
        for name in ("AP", "AP50", "AP75")
        if is_number(value := results.get(f"{what}_{name}"))
    ]
    return [_with_classes(score, per_class) for score in found], problems


_READERS: dict[str, Callable[[Path, dict[str, Any]], Found]] = {
    "knn": _knn,
    "linear": _linear,
    "svm": _svm,
    "detection": _detection,
}


def _require(folder: Path, record: dict[str, Any], shape: Shape) -> None:
    if wrong := misfits(record, shape):
        raise UserError(
            f"{folder / FILE_NAME} is not a complete record of {record['kind']}; missing or of the wrong "
            f"type: {', '.join(wrong)}."
        )


def _data_name(record: dict[str, Any]) -> str:
    given: str = record["config"]["data"]
    return Path(given).name or given


def _with_classes(score: Score, per_class: PerClass) -> Score:
    return Score(**{**vars(score), "per_class": per_class.get(score.name) or None})


# ---- per_class.json


def _per_class(
    folder: Path, reader: Callable[[dict[str, Any]], PerClass]
) -> tuple[PerClass, list[str]]:
    path = folder / "per_class.json"
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} is not a table of classes.")
        return reader(content), []
    except UserError as error:
        return {}, [str(error)]
    except (KeyError, TypeError, AttributeError):
        return {}, [f"{path} is not a table of classes."]


def _by_detector(content: dict[str, Any]) -> PerClass:
    return {
        f"{what} {name}": _column({row["class"]: row for row in table["classes"]}, name)
        for what, table in content.items()
        for name in ("AP", "AP50", "AP75")
    }


def _column(rows: dict[str, Any], name: str) -> dict[str, float]:
    values = {str(label): row[name] for label, row in rows.items()}
    if not all(value is None or is_number(value) for value in values.values()):
        raise TypeError(name)
    return {label: math.nan if value is None else float(value) for label, value in values.items()}
