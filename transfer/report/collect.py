"""Records -> runs, networks and columns. Nothing is averaged, drawn or written here.

A *network* is one row of the scores: evaluations whose networks differ in the pre-training seed
alone. A *column* is one number on one set of images: protocol, metric and fingerprints.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.run.config import flat
from msbreg.run.errors import UserError
from transfer.report.runs import KINDS, SCORES, Column, Run, read_runs


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
    unread: tuple[str, ...] = ()  # why records could not be read

    @property
    def evaluations(self) -> list[Run]:
        """The runs that the scores are from."""
        return [run for network in self.networks for run in network.runs]


def collect(paths: Iterable[Path]) -> Collection:
    """Read every record at or below the paths.

    Raises:
        UserError: a path does not exist, or holds no record that can be read.
    """
    runs, unread = read_runs(paths)
    if not runs:
        raise UserError("\n".join(unread) + "\nMove such folders away, or run them again.")
    pretrainings = tuple(run for run in runs if run.kind == "pretrain")
    return Collection(
        networks=group_networks([r for r in runs if r.done and r.kind in KINDS], pretrainings),
        pretrainings=pretrainings,
        unfinished=tuple(run for run in runs if not run.done),
        others=tuple(r for r in runs if r.done and r.kind not in (*KINDS, "pretrain")),
        unread=tuple(unread),
    )


def columns(networks: Iterable[Network]) -> list[Column]:
    """Of all scores: by protocol, then by data, then as papers quote them."""
    found = {column for network in networks for run in network.runs for column in run.scores()}
    return sorted(
        found,
        key=lambda c: (KINDS.index(c.kind), c.data, c.fingerprints, _place(c)),
    )


def _place(column: Column) -> tuple[Any, ...]:
    """Neighbors by their number; boxes before masks, for VOC with AP50 first, for COCO with AP."""
    if column.kind != "detection":
        return (len(column.metric), column.metric)
    what, _, name = column.metric.partition("_")
    order = ("AP50", "AP75", "AP") if "VOC" in column.measure else ("AP", "AP50", "AP75")
    return (what, column.measure, order.index(name))


def column_title(column: Column) -> str:
    """Protocol and metric, without the data."""
    for kind, pattern, title in SCORES:
        match = re.fullmatch(pattern, column.metric)
        if kind == column.kind and match:
            measure = f" ({column.measure})" if column.measure else ""
            return title.format(*match.groups()) + measure
    raise AssertionError(column)


def data_title(column: Column, others: Iterable[Column]) -> str:
    """Name of the data and size of the test split; where names collide, with what differs."""
    splits = json.loads(column.fingerprints)
    tested = [split for name, split in splits.items() if not name.startswith("train")]
    last = tested[-1] if tested else {}
    words = column.data
    if isinstance(last, dict) and "images" in last:
        words += f", {last['images']} test images"
    kin = {o.fingerprints for o in others if (o.kind, o.data) == (column.kind, column.data)}
    kin -= {column.fingerprints}
    return words + (f" ({_what_differs(splits, column, kin)})" if kin else "")


def _what_differs(splits: dict[str, Any], column: Column, kin: Iterable[str]) -> str:
    """Fingerprints of the splits that are others elsewhere, shortened: ``train 1f2e3d4c``."""
    theirs = [json.loads(fingerprints) for fingerprints in kin]
    differing = [
        {name for name in splits if _fingerprint(other, name) != _fingerprint(splits, name)}
        for other in theirs
    ]
    words = [
        f"{name} {_fingerprint(splits, name)[:8]}"
        for name in splits
        if name in set().union(*differing)
    ]
    if not all(differing):  # they differ, but not in a fingerprint
        words.append(f"data {hashlib.sha256(column.fingerprints.encode()).hexdigest()[:8]}")
    return ", ".join(words)


def _fingerprint(splits: dict[str, Any], name: str) -> str:
    split = splits.get(name)
    return str(split.get("fingerprint", "")) if isinstance(split, dict) else ""


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
    """The recorded name; not without a word on weights that look untrained, or are a whole detector's."""
    if network["family"].startswith("detector"):
        return f"{network['name']}, trained detector"
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
