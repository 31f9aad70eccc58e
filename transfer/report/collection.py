"""Runs sorted by section of the report, and grouped into networks.

A *network* is one row of the score tables: evaluations of weights that differ only in their pre-training
seed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from msbreg.run.errors import UserError
from transfer.report.runs import Run, read_runs


@dataclass(frozen=True)
class Network:
    """One row of the score tables: runs on weights that differ only in their seed."""

    label: str
    arch: str
    random: bool
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Collection:
    """All runs that were found.

    Attributes:
        networks: the finished evaluations with scores, by network; untrained networks come last.
        trainings: pre-training runs with any status.
        unfinished: runs of every kind that are not finished.
        others: finished evaluations without scores.
        unread: messages about records that could not be read.
    """

    networks: tuple[Network, ...]
    trainings: tuple[Run, ...]
    unfinished: tuple[Run, ...]
    others: tuple[Run, ...]
    unread: tuple[str, ...] = ()

    @property
    def evaluations(self) -> list[Run]:
        """The runs that the scores come from."""
        return [run for network in self.networks for run in network.runs]


def collect(paths: Iterable[Path]) -> Collection:
    """Read every record at or below the paths.

    Raises:
        UserError: a path does not exist, or no record can be read.
    """
    runs, unread = read_runs(paths)
    if not runs:
        raise UserError("\n".join(unread[:20]) + "\nMove such folders away, or repeat the runs.")
    evaluated = [run for run in runs if run.done and run.network is not None]
    trainings = tuple(
        run
        for run in runs
        if run.network is None and (run.done or (run.folder / "curve.jsonl").exists())
    )
    return Collection(
        networks=group_networks([run for run in evaluated if run.scores], trainings),
        trainings=trainings,
        unfinished=tuple(run for run in runs if not run.done),
        others=tuple(run for run in evaluated if not run.scores),
        unread=tuple(unread),
    )


def group_networks(runs: Iterable[Run], trainings: Iterable[Run]) -> tuple[Network, ...]:
    """Group runs into the rows of the score tables, trained networks before untrained ones.

    Runs share a row if their networks have the same name, architecture and recorded recipe, and if their
    pre-training records (if known) have the same protocol and images. Different weights with the same seed
    get separate rows: something else differs, and a mean over "seeds" would be wrong.
    """
    origins = {run.weights: run.variant for run in trainings if run.done and run.weights}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_recipe(run), []).append(run)
    rows = [part for group in groups.values() for part in _split_row(group, origins)]
    rows.sort(key=lambda part: _is_random(part[0]))
    return tuple(
        Network(label, _of(row[0], "arch"), _is_random(row[0]), tuple(row))
        for label, row in zip(_labels(rows), rows, strict=True)
    )


def _of(run: Run, name: str) -> str:
    assert run.network is not None
    return str(run.network[name])


def _is_random(run: Run) -> bool:
    return _of(run, "family") == "random"


def _recipe(run: Run) -> str:
    assert run.network is not None
    details = {k: v for k, v in run.network["details"].items() if k != "seed"}
    key = [_of(run, "name"), _of(run, "arch"), _of(run, "family"), details]
    return json.dumps(key, sort_keys=True)


def seed_of(run: Run) -> str:
    """The pre-training seed of the evaluated network as text; empty if it is unknown."""
    assert run.network is not None
    seed = run.network["details"].get("seed")
    return "" if seed is None else str(seed)[:20]


def _split_row(group: list[Run], origins: dict[str, str]) -> list[list[Run]]:
    """Split runs of one recipe by pre-training protocol, and by weights if two share a seed."""
    known = [origins.get(_of(run, "sha256")) for run in group]
    keys = known if None not in known else [None] * len(group)
    parts: dict[str | None, list[Run]] = {}
    for key, run in zip(keys, group, strict=True):
        parts.setdefault(key, []).append(run)
    rows: list[list[Run]] = []
    for part in parts.values():
        by_weights: dict[str, list[Run]] = {}
        for run in part:
            by_weights.setdefault(_of(run, "sha256"), []).append(run)
        shared_seed = len({seed_of(run) for run in part}) < len(by_weights)
        rows += by_weights.values() if shared_seed else [part]
    return rows


def _name(run: Run) -> str:
    """The recorded name, with a mark for weights that look untrained or are a whole detector's."""
    assert run.network is not None
    name = _of(run, "name")[:80]
    if _of(run, "family").startswith("detector"):
        return f"{name}, trained detector"
    suspicious = not _is_random(run) and run.network.get("warnings")
    return f"{name} [looks untrained]" if suspicious else name


def _labels(rows: Sequence[list[Run]]) -> list[str]:
    """Unique labels: the names, followed by checkpoint folder and seeds if several networks share one."""
    labels = [_name(row[0]) for row in rows]
    same: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        same.setdefault(label, []).append(i)
    for name, members in same.items():
        if len(members) > 1:
            folders = _short([PurePath(_of(rows[i][0], "source")).parent for i in members])
            for i, folder in zip(members, folders, strict=True):
                seeds = sorted({seed_of(run) for run in rows[i]} - {""})
                seed_text = (
                    f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else ""
                )
                labels[i] = f"{name} ({', '.join(filter(None, [folder, seed_text]))})"
    counts = {label: labels.count(label) for label in labels}
    return [
        f"{label} [weights {_of(row[0], 'sha256')[:8]}]" if counts[label] > 1 else label
        for label, row in zip(labels, rows, strict=True)
    ]


def _short(folders: list[PurePath]) -> list[str]:
    """The shortest trailing parts of the paths that are unique, at most four names long."""
    for length in range(1, 5):
        short = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(short)) == len(set(folders)):
            break
    return [name[-60:] for name in short]
