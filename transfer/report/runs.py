"""Runs: folders, the records in them, and what a report takes from those.

A record that lacks what a finished run has, or holds it in another form, is no run: it is named with
what is wrong, and the others are read all the same.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from msbreg.run.record import FILE_NAME, find_records

# Kind of record, the results that are scores, and what their columns are called. In column order.
SCORES = (
    ("knn", r"top1_(\d+)nn", "kNN top-1, k = {}"),
    ("linear", r"top1", "linear top-1"),
    ("svm", r"map", "SVM mAP"),
    ("detection", r"(box|mask)_(AP|AP50|AP75)", "{} {}"),
)
KINDS = tuple(kind for kind, _, _ in SCORES)

Shape = Mapping[str, Any]  # name -> a type, several, or the shape of what is below
_OF_EVERY: Shape = {"kind": str, "status": str, "config": dict, "digest": str}
_OF_DONE: Shape = {"results": dict}
_OF_NETWORK: Shape = dict.fromkeys(("name", "arch", "family", "sha256", "source"), str)
_OF_EVALUATION: Shape = {"network": {**_OF_NETWORK, "details": dict}}
_OF_DETECTION: Shape = {"engine": {"name": str}, "data": {"test": {"name": str}}}
_OF_TRAINED: Shape = {"data": {"test": {"name": str}, "train": {"name": str}}}
_IF_THERE: Shape = {
    **dict.fromkeys(("environment", "data", "engine", "results"), dict),
    **dict.fromkeys(("overrides", "transform"), (dict, type(None))),
    **dict.fromkeys(("warnings", "not_protocol", "drawings"), list),
    **{"seconds": (int, float), "processes": int, "metric": str},
}


@dataclass(frozen=True)
class Column:
    """One number on one set of images; two with equal fields may stand in one column.

    Attributes:
        metric: name of the result, such as top1_20nn or box_AP50.
        data: names of the data, and what else keeps tables apart.
        measure: the rules behind the number, where there are several: "VOC 11-point AP".
        fingerprints: of the data, as JSON.
    """

    kind: str
    metric: str
    data: str
    measure: str
    fingerprints: str


@dataclass(frozen=True)
class Run:
    """A folder and the record in it."""

    folder: Path
    record: dict[str, Any]

    @property
    def kind(self) -> str:
        """Which script wrote it: pretrain, knn, linear, svm, detection."""
        return self.record["kind"]

    @property
    def done(self) -> bool:
        """Whether it ended as it should; only then its results are scores."""
        return self.record["status"] == "done"

    @property
    def network(self) -> dict[str, Any]:
        """Provenance of the evaluated network."""
        return self.record["network"]

    @property
    def data(self) -> str:
        """What the data are called in a table: their name, or the last part of their path.

        Detectors are told apart by what they were trained on and by their engines too: no table mixes
        them unlabeled.
        """
        if self.kind == "detection":
            test, train = (self.record["data"].get(split) for split in ("test", "train"))
            names = f"{train['name']} → {test['name']}" if train else f"{test['name']}, eval only"
            return f"{names}, {self.record['engine']['name']}"
        given = str(self.record["config"].get("data", "unknown data"))
        return Path(given).name or given

    @cached_property
    def fingerprints(self) -> str:
        """Equal for two runs exactly if they saw the same images in the same splits."""
        return json.dumps(self.record.get("data", {}), sort_keys=True)

    def scores(self) -> dict[Column, tuple[float, float | None]]:
        """Its scores in percent, each with the standard error of the record, if it has one.

        A result that is null (of a class without objects, say) is no score.
        """
        results = self.record["results"]
        return {
            Column(self.kind, name, self.data, self._measure(name), self.fingerprints): (
                float(value),
                results.get(f"{name}_stderr") if is_number(results.get(f"{name}_stderr")) else None,
            )
            for kind, pattern, _ in SCORES
            for name, value in results.items()
            if kind == self.kind and re.fullmatch(pattern, name) and is_number(value)
        }

    def _measure(self, metric: str) -> str:
        """The rules behind one result; a detector with masks names those of boxes, then of masks."""
        said = self.record.get("metric", "")
        parts = said.split(", ")
        if len(parts) == 2 and all(part.endswith(" AP") for part in parts):
            return parts[metric.startswith("mask")]
        return said


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it can be averaged and drawn: no null, no word, neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """All runs at or below the paths, and why other records are none.

    Raises:
        UserError: a path does not exist, or there is no record at all.
    """
    runs, unread = [], []
    for folder, record in find_records(paths):
        problem = record if isinstance(record, str) else _problem(folder, record)
        if isinstance(record, str) or problem:
            unread.append(problem)
        else:
            runs.append(Run(folder, record))
    return runs, unread


def _problem(folder: Path, record: dict[str, Any]) -> str:
    """What keeps a record from being read; empty where nothing does."""
    shape = _OF_EVERY
    if record.get("status") == "done":
        shape = {**shape, **_OF_DONE}
        if record.get("kind") in KINDS:
            shape = {**shape, **_OF_EVALUATION}
        if record.get("kind") == "detection":
            shape = {**shape, **_OF_DETECTION}
            if isinstance(record.get("data"), dict) and "train" in record["data"]:
                shape = {**shape, **_OF_TRAINED}
    found = [*_misfits(record, shape), *_misfits(record, _IF_THERE, some=True)]
    wrong = list(dict.fromkeys(found))
    if not wrong:
        return ""
    return (
        f"{folder / FILE_NAME} lacks {', '.join(wrong)}, or holds it in another form: no script of "
        "this suite wrote it so."
    )


def _misfits(record: Any, shape: Shape, *, some: bool = False, prefix: str = "") -> list[str]:
    """Names of what does not fit; with ``some``, what is absent fits."""
    wrong = []
    for name, expected in shape.items():
        value = record.get(name)
        if isinstance(expected, Mapping):
            if isinstance(value, dict):
                wrong += _misfits(value, expected, prefix=f"{prefix}{name}.")
            else:
                wrong.append(prefix + name)
        elif not isinstance(value, expected) and not (some and name not in record):
            wrong.append(prefix + name)
    return wrong
