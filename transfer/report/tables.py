"""Means, spreads, footnotes and differences: the arithmetic of the report's tables."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any, Literal

import numpy as np

from msbreg.run.config import differences, flat
from msbreg.run.record import NOT_PROTOCOL, matches
from transfer.report.collect import Network, columns
from transfer.report.runs import Column, Run

Values = dict[
    str, list[tuple[float, float | None]]
]  # sha256 -> (score, standard error) of its runs


@dataclass(frozen=True)
class Entry:
    """One mean with its spread, in percent.

    Attributes:
        over: what the spread is over: the seeds of ``n`` networks, ``n`` evaluations of one network,
            or the test images of a single one.
        note: mark of the footnote on what differs from the rest of the column.
    """

    mean: float
    spread: float | None
    over: Literal["seeds", "evaluations", "test images"]
    n: int
    note: str = ""

    def __str__(self) -> str:
        if self.spread is None:
            return f"{self.mean:.1f}"
        scope = "(test)" if self.over == "test images" else f"({self.n} {self.over})"
        return f"{self.mean:.1f} ± {self.spread:.1f} {scope}"


def entry(values: Values, note: str = "") -> Entry:
    """Mean over networks of the mean over each one's runs.

    The spread is the sample standard deviation over networks; with one network over its evaluations
    if they differ (a deterministic protocol that ran twice has none); else the recorded error.
    """
    means = [float(np.mean([score for score, _ in runs])) for runs in values.values()]
    if len(means) > 1:
        return Entry(float(np.mean(means)), float(np.std(means, ddof=1)), "seeds", len(means), note)
    (runs,) = values.values()
    scores = [score for score, _ in runs]
    if len(set(scores)) > 1:
        spread = float(np.std(scores, ddof=1))
        return Entry(means[0], spread, "evaluations", len(scores), note)
    return Entry(means[0], runs[0][1], "test images", 1, note)


@dataclass(frozen=True)
class Scores:
    """The table: ``cells[row][column]`` holds one entry for each variant of the protocol."""

    columns: list[Column]
    networks: list[Network]
    cells: list[list[dict[str, Entry]]]
    notes: dict[str, str] = field(default_factory=dict)  # mark -> text


def score_table(networks: Iterable[Network]) -> Scores:
    """One row per network, one column per number; variants of a protocol are never averaged."""
    table = Scores(columns(networks), list(networks), [])
    marks: dict[Column, dict[str, str]] = {}
    for column in table.columns:
        runs = [run for n in table.networks for run in n.runs if column in run.scores()]
        marks[column] = _marks(runs, table.notes)
    for network in table.networks:
        row: list[dict[str, Entry]] = []
        for column in table.columns:
            values: dict[str, Values] = {}
            for run in network.runs:
                if column in run.scores():
                    of_variant = values.setdefault(variant(run), {})
                    of_network = of_variant.setdefault(run.network["sha256"], [])
                    of_network.append(run.scores()[column])
            row.append({v: entry(values[v], marks[column][v]) for v in values})
        table.cells.append(row)
    return table


def variant(run: Run) -> str:
    """Equal for two runs exactly if their protocol and the pixels that they saw agree."""
    return json.dumps([run.record["digest"], run.record.get("transform")], sort_keys=True)


def _marks(runs: list[Run], notes: dict[str, str]) -> dict[str, str]:
    """Mark of each variant in one column; none for the one that most of its runs follow."""
    examples = {variant(run): run for run in reversed(runs)}
    usual = Counter(map(variant, runs)).most_common(1)[0][0]
    marks = {usual: ""}
    for name, run in examples.items():
        if name != usual:
            text = _what_differs(run, examples[usual])
            known = {said: mark for mark, said in notes.items()}
            marks[name] = known.get(text) or _new_mark(len(notes))
            notes[marks[name]] = text
    return marks


def _new_mark(number: int) -> str:
    rounds, letter = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[letter] * (rounds + 1)


def _what_differs(run: Run, usual: Run) -> str:
    parts = []
    if run.record["digest"] != usual.record["digest"]:
        before, after = _protocol(usual), _protocol(run)
        changed = [*differences(after, before), *(k for k in before if k not in after)]
        # The transform that was used says it better than the settings it came from.
        settings = _pairs(after, before, [k for k in changed if not k.startswith("transform")])
        parts.append(
            f"protocol {run.record['digest']}, not {usual.record['digest']} as the rest of the column"
            + (f": {settings}" if settings else "")
        )
    before, after = (r.record.get("transform") or {} for r in (usual, run))
    if before != after:
        names = sorted({k for k in {**before, **after} if before.get(k) != after.get(k)})
        parts.append(f"other pixels: {_pairs(after, before, [f'{n}' for n in names])}")
    return "; ".join(parts)


def _protocol(run: Run) -> dict[str, Any]:
    left_out = {*NOT_PROTOCOL, *run.record.get("not_protocol", ())}
    return {k: v for k, v in flat(run.record["config"]).items() if not matches(k, left_out)}


def _pairs(after: dict[str, Any], before: dict[str, Any], names: list[str]) -> str:
    show = lambda settings, name: json.dumps(settings[name]) if name in settings else "absent"  # noqa: E731
    return ", ".join(f"{n} = {show(after, n)} (the rest: {show(before, n)})" for n in names)


@dataclass(frozen=True)
class Difference:
    """A row of differences to the random network of the same architecture, in points.

    Each cell is a number; or, in words, why there is none.
    """

    network: str
    twin: str
    cells: list[float | str]


def difference_table(table: Scores) -> list[Difference]:
    """Mean minus mean, where both followed the very same protocol on the same pixels."""
    rows = []
    for network, cells in zip(table.networks, table.cells, strict=True):
        for twin, twin_cells in zip(table.networks, table.cells, strict=True):
            if network.random or not twin.random or network.arch != twin.arch:
                continue
            row = [_difference(a, b) for a, b in zip(cells, twin_cells, strict=True)]
            if any(isinstance(value, float) for value in row):
                rows.append(Difference(network.label, twin.label, row))
    return rows


def _difference(ours: dict[str, Entry], theirs: dict[str, Entry]) -> float | str:
    shared = sorted((v for v in ours if v in theirs), key=lambda v: ours[v].note)
    if shared:
        return ours[shared[0]].mean - theirs[shared[0]].mean
    return "other protocol" if ours and theirs else ""
