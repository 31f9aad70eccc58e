"""Records -> runs, networks and columns. Nothing is averaged, drawn or written here.

A *network* is one row of the scores: evaluations whose networks differ in the pre-training seed
alone. A *column* is one number on one set of images: protocol, metric and fingerprints.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from msbreg.config import flat
from msbreg.errors import UserError
from msbreg.record import FILE_NAME, find_records

# Kind of record, the results that are scores, and what their columns are called. In column order.
SCORES = (
    ("knn", r"top1_(\d+)nn", "kNN top-1, k = {}"),
    ("linear", r"top1", "linear top-1"),
    ("svm", r"map", "SVM mAP"),
    ("detection", r"(box|mask)_(AP|AP50)", "{} {}"),
)
KINDS = tuple(kind for kind, _, _ in SCORES)
_OF_NETWORK = ("name", "arch", "family", "sha256", "source", "details")


@dataclass(frozen=True)
class Column:
    """One number on one set of images; two with equal fields may stand in one column."""

    kind: str
    metric: str
    data: str
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

        Detectors are told apart by their engines too: no table mixes them unlabelled.
        """
        if self.kind == "detection":
            return f"{self.record['data']['test']['name']}, {self.record['engine']['name']}"
        given = str(self.record["config"].get("data", "unknown data"))
        return Path(given).name or given

    @cached_property
    def fingerprints(self) -> str:
        """Equal for two runs exactly if they saw the same images in the same splits."""
        return json.dumps(self.record.get("data", {}), sort_keys=True)

    def scores(self) -> dict[Column, tuple[float, float | None]]:
        """Its scores in percent, each with the standard error of the record, if it has one."""
        results = self.record["results"]
        return {
            Column(self.kind, name, self.data, self.fingerprints): (
                float(value),
                results.get(f"{name}_stderr"),
            )
            for kind, pattern, _ in SCORES
            for name, value in results.items()
            if kind == self.kind and re.fullmatch(pattern, name)
        }


@dataclass(frozen=True)
class Network:
    """One row: runs on networks that differ in their seed alone."""

    label: str
    arch: str
    random: bool
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Collection:
    """All that was found, sorted by what the report says about it."""

    networks: tuple[Network, ...]
    pretrainings: tuple[Run, ...]  # of every status
    unfinished: tuple[Run, ...]  # of every kind; pre-trainings stand in both
    others: tuple[Run, ...]  # finished, of a kind that has no column here

    @property
    def evaluations(self) -> list[Run]:
        """The runs that the scores are from."""
        return [run for network in self.networks for run in network.runs]


def collect(paths: Iterable[Path]) -> Collection:
    """Read every record at or below the paths.

    Raises:
        UserError: a path does not exist, holds no record, or one that cannot be read.
    """
    runs = [Run(folder, record) for folder, record in find_records(paths)]
    for run in runs:
        _check(run)
    pretrainings = tuple(run for run in runs if run.kind == "pretrain")
    return Collection(
        networks=group_networks([r for r in runs if r.done and r.kind in KINDS], pretrainings),
        pretrainings=pretrainings,
        unfinished=tuple(run for run in runs if not run.done),
        others=tuple(r for r in runs if r.done and r.kind not in (*KINDS, "pretrain")),
    )


def _check(run: Run) -> None:
    missing = [key for key in ("kind", "status", "config", "digest") if key not in run.record]
    if not missing and run.done and run.kind in KINDS:
        wanted = ("network", "results", *(("engine", "data") if run.kind == "detection" else ()))
        missing = [key for key in wanted if key not in run.record]
        missing += [
            f"network.{k}" for k in _OF_NETWORK if k not in run.record.get("network", _OF_NETWORK)
        ]
    if missing:
        raise UserError(
            f"{run.folder / FILE_NAME} lacks {', '.join(missing)}: no script of this suite wrote it "
            "so.\nMove the folder away, or run it again."
        )


def columns(networks: Iterable[Network]) -> list[Column]:
    """Of all scores: by protocol, then by data, then by number of neighbours."""
    found = {column for network in networks for run in network.runs for column in run.scores()}
    return sorted(
        found,
        key=lambda c: (KINDS.index(c.kind), c.data, c.fingerprints, len(c.metric), c.metric),
    )


def column_title(column: Column) -> str:
    """Protocol and metric, without the data."""
    for kind, pattern, title in SCORES:
        match = re.fullmatch(pattern, column.metric)
        if kind == column.kind and match:
            return title.format(*match.groups())
    raise AssertionError(column)


def data_title(column: Column, others: Iterable[Column]) -> str:
    """Name of the data and size of the test split; with its fingerprint where names collide."""
    splits = json.loads(column.fingerprints)
    tested = [split for name, split in splits.items() if not name.startswith("train")]
    last = tested[-1] if tested else {}
    words = column.data
    if isinstance(last, dict) and "images" in last:
        words += f", {last['images']} test images"
        same_name = {
            o.fingerprints for o in others if (o.kind, o.data) == (column.kind, column.data)
        }
        if len(same_name) > 1:
            words += f" ({str(last.get('fingerprint', ''))[:8]})"
    return words


def group_networks(runs: Iterable[Run], pretrainings: Iterable[Run]) -> tuple[Network, ...]:
    """Rows of the scores, pre-trained before random.

    Runs share a row if name, architecture and the recorded recipe are equal, the pre-training records
    (where they are at hand) follow one protocol on the same images, and no two different networks
    have the same seed: then something else differs, and a mean over "seeds" would be a fiction.
    """
    origins = {
        run.record["results"].get("sha256"): f"{run.record['digest']} {run.fingerprints}"
        for run in pretrainings
        if run.done
    }
    groups: dict[str, list[Run]] = {}
    for run in runs:
        recipe = {k: v for k, v in run.network["details"].items() if k != "seed"}
        key = [run.network["name"], run.network["arch"], run.network["family"], recipe]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    rows = [part for group in groups.values() for part in _apart(group, origins)]
    rows.sort(key=lambda part: part[0].network["family"] == "random")
    labels = _labels(rows)
    return tuple(
        Network(label, row[0].network["arch"], row[0].network["family"] == "random", tuple(row))
        for label, row in zip(labels, rows, strict=True)
    )


def _apart(group: list[Run], origins: dict[str, str]) -> list[list[Run]]:
    known = [origins.get(run.network["sha256"]) for run in group]
    keys = known if None not in known else [None] * len(group)
    parts: dict[str | None, list[Run]] = {}
    for key, run in zip(keys, group, strict=True):
        parts.setdefault(key, []).append(run)
    rows = []
    for part in parts.values():
        weights = {run.network["sha256"] for run in part}
        seeds = {run.network["details"].get("seed") for run in part}
        if len(seeds) < len(weights):
            rows += [[r for r in part if r.network["sha256"] == sha] for sha in sorted(weights)]
        else:
            rows.append(part)
    return rows


def _name(network: dict[str, Any]) -> str:
    """The recorded name; a network whose weights look untrained is not shown without that word."""
    doubted = network["family"] != "random" and network.get("warnings")
    return f"{network['name']} [looks untrained]" if doubted else network["name"]


def _labels(rows: list[list[Run]]) -> list[str]:
    """The names; where two rows share one, with what tells them apart."""
    labels = [_name(row[0].network) for row in rows]
    recipes = [flat(row[0].network["details"]) for row in rows]
    for i, name in enumerate([*labels]):
        same = [j for j, row in enumerate(rows) if _name(row[0].network) == name]
        differing = [
            f"{key} {value}"
            for key, value in recipes[i].items()
            if key != "seed" and any(recipes[j].get(key) != value for j in same)
        ]
        if len(same) > 1 and differing:
            labels[i] = f"{name} ({', '.join(differing)})"
    return [
        f"{label} [weights {row[0].network['sha256'][:8]}]" if labels.count(label) > 1 else label
        for label, row in zip(labels, rows, strict=True)
    ]
