"""Runs: what the report keeps of a record, in a few kilobytes each.

A record that is incomplete, or has entries of another type, is not a run: it is named with what is
wrong, and the report goes on.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from msbreg.run.config import flat
from msbreg.run.errors import UserError
from msbreg.run.json_files import Shape, is_number, misfits
from msbreg.run.record import FILE_NAME, NOT_PROTOCOL, find_records, matches, read_record
from transfer.report import schema1, words
from transfer.scoring.scores import Score, score_from_dict

_NETWORK: Shape = {
    **dict.fromkeys(("name", "arch", "family", "sha256", "source"), str),
    "details": dict,
}
_NETWORK_IF_ANY: Shape = {"encoder": str, "tensors": int, "warnings": list}
_ENVIRONMENT_IF_ANY: Shape = {
    **dict.fromkeys(("python", "system", "cpu_capability"), str),
    **{"packages": dict, "gpus": list, "commit": (str, type(None))},
}
# Settings that the page shows for a training run, under which name.
_SHOWN = {
    "method": "method",
    "arch": "architecture",
    "data": "data",
    "views": "views",
    "batch_size": "batch size",
    "yaml.SOLVER.IMS_PER_BATCH": "images per step",
    "yaml.SOLVER.BASE_LR": "learning rate",
}
_SHOWN_RESULTS = {
    "steps": "steps",
    "views_seen": "views seen",
    "views_per_second": "views/s",
    "peak_learning_rate": "peak learning rate",
}
_PLANNED = ("epochs", "yaml.SOLVER.MAX_ITER")
_WARNINGS = 20  # of a run


@dataclass(frozen=True)
class Run:
    """A run's folder and what the tables and the page need of its record.

    Attributes:
        network: provenance of the evaluated network; None for a run that evaluates none.
        images: content identity of every split that the run used.
        scores: of a finished run.
        facts: settings and results to show, by name.
        numbers: numeric settings, by dotted name.
        planned: epochs or iterations that were asked for.
        weights: sha256 of the checkpoint that the run wrote.
        details: the rest of the record as text, by name.
        problems: messages about files beside the record that could not be used.
    """

    folder: Path
    kind: str
    status: str
    digest: str
    started: str
    written: str
    seconds: float
    seed: Any
    error: str
    warnings: tuple[str, ...]
    device: str
    processes: int
    environment: dict[str, Any]
    network: dict[str, Any] | None
    transform: dict[str, Any]
    images: dict[str, str]
    scores: tuple[Score, ...]
    facts: dict[str, Any]
    numbers: dict[str, float]
    planned: Any
    weights: str
    drawings: tuple[str, ...]
    details: dict[str, str]
    problems: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether it ended as it should; only then it has scores."""
        return self.status == "done"

    @cached_property
    def variant(self) -> str:
        """Equal for two runs exactly if their protocol and all the pixels they saw agree."""
        return json.dumps([self.digest, self.transform, self.images], sort_keys=True)

    def protocol(self) -> dict[str, Any]:
        """The settings that define its protocol, read again from the record."""
        record = read_record(self.folder) or {}
        left_out = {*NOT_PROTOCOL, *map(str, record.get("not_protocol", ()))}
        settings = flat(record.get("config", {}))
        return {k: v for k, v in settings.items() if not matches(k, left_out)}


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """All runs at or below the paths in order of their start, and why other records are not runs.

    Raises:
        UserError: a path does not exist, or there is no record at all.
    """
    runs, unread = [], []
    shared: dict[str, dict[str, Any]] = {}
    for folder, record in find_records(paths):
        try:
            runs.append(_run(folder, record, shared))
        except UserError as error:
            unread.append(words.cut(error))
    return sorted(runs, key=lambda run: (run.started, str(run.folder))), unread


def _run(folder: Path, record: dict[str, Any] | str, shared: dict[str, dict[str, Any]]) -> Run:
    if isinstance(record, str):
        raise UserError(record)
    _check(folder, record)
    done = record["status"] == "done"
    scores: list[Score] = []
    problems: list[str] = []
    if done and "network" in record:
        if record["schema"] == 1:
            scores, problems = schema1.scores_of(folder, record)
        else:
            scores = _scores(folder, record)
    settings, results = flat(record["config"]), record["results"]
    environment = json.dumps(record["environment"])
    data = flat(record.get("data") or {})
    return Run(
        folder=folder,
        kind=words.cut(record["kind"], 40),
        status=words.cut(record["status"], 40),
        digest=words.cut(record["digest"], 40),
        started=words.cut(record["started"], 40),
        written=words.cut(record.get("written", "unknown"), 40),
        seconds=max(0.0, min(float(record["seconds"]), 1e9)),
        seed=words.number(record["config"].get("seed")).replace(",", ""),
        error=words.cut(record.get("error", "")),
        warnings=tuple(words.cut(w) for w in record["warnings"][:_WARNINGS]),
        device=words.cut(record.get("device", "unknown"), 80),
        processes=record.get("processes", 1),
        environment=shared.setdefault(environment, record["environment"]),
        network=_network(record) if "network" in record else None,
        transform=record.get("transform") or {},
        images={k: str(v) for k, v in data.items() if k.split(".")[-1] == "fingerprint"},
        scores=tuple(scores),
        facts=_facts(record, settings, data),
        numbers={
            name: float(value)
            for name, value in settings.items()
            if is_number(value) and not name.startswith("yaml.")
        },
        planned=next((settings[name] for name in _PLANNED if name in settings), None),
        weights=str(results.get("sha256", "")),
        drawings=tuple(n for n in record.get("drawings", ()) if _is_name(n))[:4],
        details=_details(record, data),
        problems=tuple(map(words.cut, problems)),
    )


def _check(folder: Path, record: dict[str, Any]) -> None:
    wrong = [f"environment.{n}" for n in misfits(record["environment"], {}, _ENVIRONMENT_IF_ANY)]
    if record["status"] == "done" and "network" in record:
        found = misfits(record["network"], _NETWORK, _NETWORK_IF_ANY)
        wrong += [f"network.{name}" for name in found]
    if wrong:
        raise UserError(
            f"{folder / FILE_NAME} is not a complete record: {', '.join(wrong)} is missing or has "
            "another type."
        )


def _scores(folder: Path, record: dict[str, Any]) -> list[Score]:
    try:
        return [score_from_dict(fields) for fields in record["scores"]]
    except UserError as error:
        raise UserError(f"{folder / FILE_NAME}: {error}.") from error


def _network(record: dict[str, Any]) -> dict[str, Any]:
    names = (*_NETWORK, *_NETWORK_IF_ANY)
    return {name: record["network"][name] for name in names if name in record["network"]}


def _facts(
    record: dict[str, Any], settings: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    engine, results = record.get("engine", {}), record["results"]
    found = {
        "engine": " ".join(str(engine[k]) for k in ("name", "version") if k in engine) or None,
        **{shown: settings.get(name) for name, shown in _SHOWN.items()},
        "images": data.get("images", data.get("train.images")),
        "seed": settings.get("seed"),
        **{shown: results.get(name) for name, shown in _SHOWN_RESULTS.items()},
        "device": record.get("device"),
        "time": words.duration(max(0.0, min(float(record["seconds"]), 1e9))),
    }
    if isinstance(found["data"], str):
        found["data"] = Path(found["data"]).name or found["data"]
    return {name: value for name, value in found.items() if value is not None}


def _details(record: dict[str, Any], data: dict[str, Any]) -> dict[str, str]:
    """Name and text of what makes the run repeatable."""
    shown = {name: len(value) if isinstance(value, list) else value for name, value in data.items()}
    found = {
        "command": record["command"],
        "card": record["card"],
        "overrides": words.settings(record.get("overrides") or {}),
        "protocol": record["digest"],
        "engine": words.settings(record["engine"]) if "engine" in record else "",
        "transform": words.settings(record["transform"]) if record.get("transform") else "",
        "selection": record.get("selection", ""),
        "results": words.settings(record["results"]) if record["results"] else "",
        "data": f"{record['config'].get('data') or 'named by the card'}: {words.settings(shown)}",
        "device": f"{record.get('device', 'unknown')}, {record.get('processes', 1)} process(es)",
        "commit": str(record["environment"].get("commit") or "unknown"),
    }
    return {name: words.cut(value) for name, value in found.items() if value}


def _is_name(value: Any) -> bool:
    """Whether it names a file in the run's own folder."""
    return (
        isinstance(value, str) and value not in ("", ".", "..") and os.path.basename(value) == value
    )
