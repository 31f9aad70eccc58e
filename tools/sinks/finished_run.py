"""Completed runs as plain data for tracking services: settings, metrics, curve and record."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from msbreg.run.config import flat
from msbreg.run.errors import UserError
from msbreg.run.json_files import is_number, read_json_lines
from msbreg.run.record import FILE_NAME, find_records
from msbreg.train.state import CURVE
from transfer.report import schema1
from transfer.report.curves import LIMIT
from transfer.scoring.scores import Score, score_from_dict

OVER = ("step", "iteration", "epoch")
"""Entries of a row of the curve that count its step; the first one present is used."""


@dataclass(frozen=True)
class FinishedRun:
    """A completed run.

    Attributes:
        folder: its output folder.
        id: 16 hexadecimal digits of the SHA-256 of the record; equal for copies of a run.
        name: network, kind of run and card.
        kind: such as ``knn``.
        settings: the config by dotted name, ``digest``, and the network and the commit.
        metrics: every score by ``metric_name``, and its standard error.
        history: (step, quantities) of each row of curve.jsonl.
    """

    folder: Path
    id: str
    name: str
    kind: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    history: tuple[tuple[int, dict[str, float]], ...]

    @property
    def record(self) -> Path:
        """The file record.json."""
        return self.folder / FILE_NAME


class Sink(Protocol):
    """A tracking service, opened for one project."""

    def has(self, run: FinishedRun) -> bool:
        """Whether the run was sent before."""

    def send(self, run: FinishedRun) -> str:
        """Send a run; returns where it is, for a message."""


def finished_runs(paths: Sequence[Path]) -> Iterator[FinishedRun | str]:
    """Every completed run at or below the paths; for others, a sentence that says why they are left out.

    Raises:
        UserError: a path does not exist, or there are no records.
    """
    for folder, record in find_records(paths):
        if isinstance(record, str):
            yield record
        elif record["status"] != "done":
            yield f"{folder}: the run is not completed ({record['status']})"
        else:
            try:
                yield finished_run(folder, record)
            except UserError as error:
                yield f"{folder}: {error}"


def finished_run(folder: Path, record: dict[str, Any]) -> FinishedRun:
    """A completed run from its record and its curve.

    Raises:
        UserError: a score or the curve is damaged.
    """
    network = record.get("network", {})
    text = json.dumps(record, sort_keys=True)
    about = {
        "digest": record["digest"],
        "card": record["card"],
        "network": network.get("name"),
        "network_sha256": network.get("sha256"),
        "commit": record["environment"].get("commit"),
        "seconds": record["seconds"],
    }
    name = " ".join(filter(None, (network.get("name"), record["kind"], record["card"])))
    return FinishedRun(
        folder=folder,
        id=hashlib.sha256(text.encode()).hexdigest()[:16],
        name=name,
        kind=record["kind"],
        settings=flat(record["config"]) | {f"record.{key}": value for key, value in about.items()},
        metrics=_metrics(_scores(folder, record)),
        history=_history(folder),
    )


def _scores(folder: Path, record: dict[str, Any]) -> list[Score]:
    if record["schema"] == 1:
        return schema1.scores_of(folder, record)[0]
    return [score_from_dict(fields) for fields in record["scores"]]


def metric_name(score: Score) -> str:
    """``DATA SPLIT/NAME [RULES]``: scores have equal names only if they are comparable.

    >>> from transfer.scoring.scores import DataId
    >>> metric_name(Score("20-NN top-1", 61.5, DataId("digits", "val"), "20 neighbors", n=720))
    'digits val/20-NN top-1 [20 neighbors]'
    """
    data = f"{score.data.name} {score.data.split}".strip()
    return f"{data}/{score.name} [{score.rules}]"


def _metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Scores and standard errors; undefined ones (NaN) are left out."""
    found: dict[str, float] = {}
    for score in scores:
        name = metric_name(score)
        values = {name: score.value, f"{name} standard error": score.stderr}
        found |= {key: value for key, value in values.items() if is_number(value)}
    return found


def _history(folder: Path) -> tuple[tuple[int, dict[str, float]], ...]:
    """The finite numbers of each row of curve.jsonl; nested ones by dotted name."""
    path = folder / CURVE
    if not path.is_file():
        return ()
    rows = []
    for row in read_json_lines(path, limit=LIMIT):
        counts = (
            [row[name] for name in OVER if is_number(row.get(name))] if type(row) is dict else []
        )
        if counts:
            numbers = {key: float(value) for key, value in flat(row).items() if is_number(value)}
            rows.append((int(counts[0]), numbers))
    return tuple(rows)
