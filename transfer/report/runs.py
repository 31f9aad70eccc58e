"""Runs: what the report reads from a record, a few kilobytes each.

Incomplete records and records with entries of the wrong type are listed with their problems; the report
continues with the others.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from msbreg.backbones.spec import normalization_of
from msbreg.run.config import flat
from msbreg.run.errors import UserError
from msbreg.run.json_files import Shape, is_number, misfits
from msbreg.run.record import FILE_NAME, NOT_PROTOCOL, find_records, matches, read_record
from transfer.report import formatting, schema1
from transfer.scoring.scores import Score, score_from_dict

_NETWORK: Shape = {
    **dict.fromkeys(("name", "arch", "family", "sha256", "source"), str),
    "details": dict,
}
_NETWORK_IF_ANY: Shape = {
    **dict.fromkeys(("encoder", "stride"), str),
    **dict.fromkeys(("tensors", "image_size"), int),
    "normalization": dict,
    "warnings": list,
}
_ENVIRONMENT_IF_ANY: Shape = {
    **dict.fromkeys(("python", "system", "cpu_capability"), str),
    **{"packages": dict, "gpus": list, "commit": (str, type(None))},
}
# Settings of a training run on the page -> their names there.
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
_WARNINGS = 20  # shown per run


@dataclass(frozen=True)
class Split:
    """A split that a run used; ``published`` is its number of images in the published data set, if known."""

    data: str
    split: str
    images: int
    published: int | None
    fingerprint: str


@dataclass(frozen=True)
class Run:
    """A run's folder, and the parts of its record that the report needs.

    Attributes:
        network: provenance of the evaluated network; None for pre-training.
        images: fingerprint of every split that the run used.
        splits: the splits that the run used, with their sizes.
        incomplete: splits whose number of images is not the published one, as text.
        scores: scores of a finished run.
        facts: settings and results to show, by name.
        numbers: numeric settings, by dotted name.
        planned: planned number of epochs or iterations.
        weights: sha256 of the checkpoint that the run wrote.
        details: other parts of the record as text, by name.
        problems: messages about files in the folder that could not be read.
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
    splits: tuple[Split, ...]
    incomplete: tuple[str, ...]
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
        """Whether the run finished; only finished runs have scores."""
        return self.status == "done"

    @cached_property
    def variant(self) -> str:
        """Equal for two runs exactly if their protocols, transforms and images are equal."""
        return json.dumps([self.digest, self.transform, self.images], sort_keys=True)

    def protocol(self) -> dict[str, Any]:
        """The settings that define the protocol, read again from the record."""
        record = read_record(self.folder) or {}
        left_out = {*NOT_PROTOCOL, *map(str, record.get("not_protocol", ()))}
        settings = flat(record.get("config", {}))
        return {k: v for k, v in settings.items() if not matches(k, left_out)}


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """All runs in the paths or below, by start time, and messages about the records that are invalid.

    Raises:
        UserError: a path does not exist, or no record was found.
    """
    runs, unread = [], []
    shared: dict[str, dict[str, Any]] = {}
    for folder, record in find_records(paths):
        try:
            runs.append(_run(folder, record, shared))
        except UserError as error:
            unread.append(formatting.cut(error))
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
        kind=formatting.cut(record["kind"], 40),
        status=formatting.cut(record["status"], 40),
        digest=formatting.cut(record["digest"], 40),
        started=formatting.cut(record["started"], 40),
        written=formatting.cut(record.get("written", "unknown"), 40),
        seconds=max(0.0, min(float(record["seconds"]), 1e9)),
        seed=formatting.number(record["config"].get("seed")).replace(",", ""),
        error=formatting.cut(record.get("error", "")),
        warnings=tuple(formatting.cut(w) for w in record["warnings"][:_WARNINGS]),
        device=formatting.cut(record.get("device", "unknown"), 80),
        processes=record.get("processes", 1),
        environment=shared.setdefault(environment, record["environment"]),
        network=_network(record) if "network" in record else None,
        transform=record.get("transform") or {},
        images={k: str(v) for k, v in data.items() if k.split(".")[-1] == "fingerprint"},
        splits=_splits(record),
        incomplete=_incomplete(record.get("data") or {}),
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
        problems=tuple(map(formatting.cut, problems)),
    )


def _check(folder: Path, record: dict[str, Any]) -> None:
    wrong = [f"environment.{n}" for n in misfits(record["environment"], {}, _ENVIRONMENT_IF_ANY)]
    if record["status"] == "done" and "network" in record:
        found = misfits(record["network"], _NETWORK, _NETWORK_IF_ANY)
        wrong += [f"network.{name}" for name in found]
        if not found and "normalization" in record["network"]:
            try:
                normalization_of(record["network"]["normalization"])
            except UserError as error:
                raise UserError(f"{folder / FILE_NAME}: network: {error}.") from error
    if wrong:
        raise UserError(
            f"{folder / FILE_NAME} is not a complete record; missing or of the wrong type: "
            f"{', '.join(wrong)}."
        )


def _scores(folder: Path, record: dict[str, Any]) -> list[Score]:
    try:
        return [score_from_dict(fields) for fields in record["scores"]]
    except UserError as error:
        raise UserError(f"{folder / FILE_NAME}: {error}.") from error


def _splits(record: dict[str, Any]) -> tuple[Split, ...]:
    found = []
    for name, of in (record.get("data") or {}).items():
        if isinstance(of, dict) and type(of.get("images")) is int and "fingerprint" in of:
            data = of.get("name") or record["config"].get("data") or "named by the card"
            published = of.get("published_images")
            found.append(
                Split(
                    formatting.cut(data, 120),
                    formatting.cut(name, 40),
                    of["images"],
                    published if type(published) is int else None,
                    formatting.cut(of["fingerprint"], 80),
                )
            )
    return tuple(found)


def _incomplete(data: dict[str, Any]) -> tuple[str, ...]:
    found = []
    for split, of in data.items():
        counts = (
            [of.get(name) for name in ("images", "published_images")]
            if isinstance(of, dict)
            else []
        )
        if counts and all(type(count) is int for count in counts):
            found.append(
                f"{formatting.cut(split, 40)} has {counts[0]:,} images, published are {counts[1]:,}"
            )
    return tuple(found)


def _network(record: dict[str, Any]) -> dict[str, Any]:
    names = (*_NETWORK, *_NETWORK_IF_ANY)
    return {name: record["network"][name] for name in names if name in record["network"]}


def _facts(
    record: dict[str, Any], settings: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    engine, results = record.get("engine", {}), record["results"]
    found = {
        "engine": " ".join(str(engine[k]) for k in ("name", "version") if k in engine) or None,
        **{label: settings.get(name) for name, label in _SHOWN.items()},
        "images": data.get("images", data.get("train.images")),
        "seed": settings.get("seed"),
        **{label: results.get(name) for name, label in _SHOWN_RESULTS.items()},
        "device": record.get("device"),
        "time": formatting.duration(max(0.0, min(float(record["seconds"]), 1e9))),
    }
    if isinstance(found["data"], str):
        found["data"] = Path(found["data"]).name or found["data"]
    return {name: value for name, value in found.items() if value is not None}


def _details(record: dict[str, Any], data: dict[str, Any]) -> dict[str, str]:
    """What is needed to repeat the run: name -> text."""
    values = {
        name: len(value) if isinstance(value, list) else value for name, value in data.items()
    }
    found = {
        "command": record["command"],
        "card": record["card"],
        "overrides": formatting.settings(record.get("overrides") or {}),
        "protocol": record["digest"],
        "engine": formatting.settings(record["engine"]) if "engine" in record else "",
        "transform": formatting.settings(record["transform"]) if record.get("transform") else "",
        "selection": record.get("selection", ""),
        "results": formatting.settings(record["results"]) if record["results"] else "",
        "data": f"{record['config'].get('data') or 'named by the card'}: {formatting.settings(values)}",
        "device": f"{record.get('device', 'unknown')}, processes: {record.get('processes', 1)}",
        "commit": str(record["environment"].get("commit") or "unknown"),
    }
    return {name: formatting.cut(value) for name, value in found.items() if value}


def _is_name(value: Any) -> bool:
    """Whether it is a plain file name, which stays in the run's folder."""
    return (
        isinstance(value, str) and value not in ("", ".", "..") and os.path.basename(value) == value
    )
