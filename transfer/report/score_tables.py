"""Score tables: one per data set, with a row per network and a column per quantity.

Two scores share a column only if their name, data, rules and unit are equal. Scores with different
protocols, transforms or images are never averaged; a footnote states what differs.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import numpy as np

from msbreg.run.config import differences
from msbreg.run.errors import UserError
from transfer.report import formatting
from transfer.report.collection import Network, collect
from transfer.report.runs import Run
from transfer.scoring.scores import DataId, Score

_LARGEST = 1e100  # larger values count as undefined: their squares overflow

Values = dict[str, list[tuple[float, float | None]]]
"""sha256 of the weights -> (value, standard error) of each of its runs."""


@dataclass(frozen=True)
class Column:
    """The properties that comparable scores share."""

    name: str
    rules: str
    unit: str
    higher_is_better: bool
    data: DataId

    @staticmethod
    def of(score: Score) -> "Column":
        """The column of a score."""
        return Column(score.name, score.rules, score.unit, score.higher_is_better, score.data)


@dataclass(frozen=True)
class Entry:
    """One mean with its spread.

    Attributes:
        over: what the spread is computed over: the seeds of ``n`` networks, ``n`` evaluations of one
            network, or the test images of a single evaluation.
        note: mark of the footnote that states what differs from the rest of the column.
    """

    mean: float
    spread: float | None
    over: Literal["seeds", "evaluations", "test images"]
    n: int
    note: str = ""

    @property
    def scope(self) -> str:
        """What the spread is computed over, as printed in a table."""
        if self.spread is None:
            return ""
        return "(test)" if self.over == "test images" else f"({self.n} {self.over})"

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        if self.spread is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.spread:.1f} {self.scope}"


def entry(values: Values, note: str = "") -> Entry:
    """Mean over networks of each one's mean over its runs; undefined values (NaN) are excluded.

    The spread is the sample standard deviation over networks. For a single network it is that over its
    evaluations if they differ (repeated runs of a deterministic protocol do not), and otherwise the recorded
    standard error.
    """
    known = {
        weights: defined
        for weights, runs in values.items()
        if (defined := [(v, e) for v, e in runs if abs(v) < _LARGEST])
    }
    if not known:
        return Entry(math.nan, None, "test images", 1, note)
    means = [float(np.mean([value for value, _ in runs])) for runs in known.values()]
    if len(means) > 1:
        return Entry(float(np.mean(means)), float(np.std(means, ddof=1)), "seeds", len(means), note)
    (runs,) = known.values()
    scores = [value for value, _ in runs]
    if len(set(scores)) > 1:
        spread = float(np.std(scores, ddof=1))
        return Entry(means[0], spread, "evaluations", len(scores), note)
    error = runs[0][1]
    return Entry(
        means[0],
        error if error is not None and abs(error) < _LARGEST else None,
        "test images",
        1,
        note,
    )


@dataclass(frozen=True)
class Difference:
    """A row of differences from the untrained network of the same architecture, in percentage points.

    Each cell is a number with its spread, or a text that says why there is none.
    """

    network: str
    twin: str
    cells: list[tuple[float, float | None] | str]


@dataclass(frozen=True)
class PerClass:
    """Per-class scores of one protocol.

    Attributes:
        heads: a network and the names of its columns.
        rows: class -> an entry for each column.
    """

    title: str
    heads: list[tuple[str, list[str]]]
    rows: dict[str, list[Entry | None]]
    left_out: str

    @property
    def names(self) -> str:
        """The names of the scores, such as ``box AP, mask AP``."""
        return ", ".join(dict.fromkeys(name for _, names in self.heads for name in names))


@dataclass(frozen=True)
class Table:
    """All scores on one data set: ``rows[i][1][j]`` maps each variant of the protocol to its entry.

    Attributes:
        incomplete: a sentence about splits that are not the published ones; empty if all are.
    """

    title: str
    columns: list[Column]
    rows: list[tuple[Network, list[dict[str, Entry]]]]
    differences: list[Difference]
    per_class: list[PerClass]
    left_out: str = ""
    incomplete: str = ""


@dataclass
class Notes:
    """Footnotes: mark -> text; equal texts share a mark."""

    texts: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """The mark of a text: a, b, ..., z, aa, bb, ..."""
        for mark, known in self.texts.items():
            if known == text:
                return mark
        rounds, letter = divmod(len(self.texts), len(ascii_lowercase))
        mark = ascii_lowercase[letter] * (rounds + 1)
        self.texts[mark] = text
        return mark


@dataclass(frozen=True)
class Limits:
    """Maximum sizes of what is shown of a large collection."""

    tables: int = 40
    networks: int = 150
    columns: int = 30
    classes: int = 100
    class_networks: int = 6
    class_tables: int = 12
    notes: int = 60


def score_tables(
    networks: Sequence[Network], limits: Limits = Limits()
) -> tuple[list[Table], dict[str, str]]:
    """The tables, in the order of their first runs but gates last, and the footnotes by mark."""
    notes = Notes()
    by_data: dict[DataId, dict[Column, int]] = {}
    runs = (run for network in networks for run in network.runs)
    for run in sorted(runs, key=lambda r: (r.gate is not None, r.started)):
        for score in run.scores:
            by_data.setdefault(score.data, {}).setdefault(Column.of(score), score.n)
    tables = []
    room = limits.class_tables
    for data in list(by_data)[: limits.tables]:
        table = _table(networks, data, by_data, notes, limits, room)
        room -= len(table.per_class)
        tables.append(table)
    return tables, notes.texts


def _table(
    networks: Sequence[Network],
    data: DataId,
    by_data: dict[DataId, dict[Column, int]],
    notes: Notes,
    limits: Limits,
    room: int,
) -> Table:
    columns = list(by_data[data])[: limits.columns]
    members = {
        network.label: [run for run in network.runs if any(s.data == data for s in run.scores)]
        for network in networks
    }
    marks = {column: _marks(members, column, notes, limits) for column in columns}
    found = [network for network in networks if members[network.label]]
    rows = [
        (network, [_cell(members[network.label], column, marks[column]) for column in columns])
        for network in found[: limits.networks]
    ]
    left_out = [
        f"{len(all_of) - most} more {what}"
        for all_of, most, what in (
            (found, limits.networks, "networks"),
            (by_data[data], limits.columns, "columns"),
        )
        if len(all_of) > most
    ]
    return Table(
        title=_title(data, by_data),
        columns=columns,
        rows=rows,
        differences=_differences(rows),
        per_class=_per_class(members, columns, limits)[:room],
        left_out=f"Not shown: {', '.join(left_out)}." if left_out else "",
        incomplete=_incomplete(run for runs in members.values() for run in runs),
    )


def _incomplete(runs: Iterable[Run]) -> str:
    """At most three splits whose number of images is not the published one."""
    found = list(dict.fromkeys(text for run in runs for text in run.incomplete))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"Not the published data set: {'; '.join(found[:3])}{more}." if found else ""


def _title(data: DataId, by_data: dict[DataId, dict[Column, int]]) -> str:
    """Name, split and size of the data, and the start of the fingerprint if names collide."""
    name = data_name(data)
    sizes = sorted(set(by_data[data].values()))
    title = f"{name}, {' or '.join(f'{n:,}' for n in sizes)} images"
    if any(data_name(other) == name for other in by_data if other != data):
        title += f" (data {data.fingerprint[:8] or 'unknown'})"
    return title


def data_name(data: DataId) -> str:
    """Name and split, such as ``digits val``. Names such as voc_2007_test include the split."""
    return formatting.cut(f"{data.name} {data.split}".strip(), 80)


def _cell(runs: list[Run], column: Column, marks: dict[str, str]) -> dict[str, Entry]:
    return {v: entry(values, marks[v]) for v, values in _values(runs, column).items()}


def _values(runs: Iterable[Run], column: Column) -> dict[str, Values]:
    """The values of a column by variant of the protocol."""
    values: dict[str, Values] = {}
    for run in runs:
        assert run.network is not None
        for score in run.scores:
            if Column.of(score) == column:
                of_weights = values.setdefault(run.variant, {}).setdefault(
                    run.network["sha256"], []
                )
                of_weights.append((score.value, score.stderr))
    return values


# ---- Footnotes


def _marks(
    members: dict[str, list[Run]], column: Column, notes: Notes, limits: Limits
) -> dict[str, str]:
    """The footnote mark of each variant in a column; empty for the most frequent variant."""
    runs = [
        r for of in members.values() for r in of if any(Column.of(s) == column for s in r.scores)
    ]
    examples = {run.variant: run for run in reversed(runs)}
    usual = Counter(run.variant for run in runs).most_common(1)[0][0]
    marks = {usual: ""}
    for variant, run in examples.items():
        if variant != usual:
            few = len(notes.texts) < limits.notes
            text = (
                _what_differs(run, examples[usual])
                if few
                else "different protocol, transform or images"
            )
            marks[variant] = notes.mark(text)
    return marks


def _what_differs(run: Run, usual: Run) -> str:
    parts = []
    if run.digest != usual.digest:
        try:
            before, after = usual.protocol(), run.protocol()
        except UserError:  # the record was changed after it was read
            before, after = {}, {}
        changed = [*differences(after, before), *(k for k in before if k not in after)]
        # The resolved transform is compared below.
        pairs = _pairs(after, before, [k for k in changed if not k.startswith("transform")])
        parts.append(
            f"protocol {run.digest} instead of {usual.digest} as in the rest of the column"
            + (f": {pairs}" if pairs else "")
        )
    for what, before, after in (
        ("transform", usual.transform, run.transform),
        ("images", usual.images, run.images),
    ):
        names = sorted({k for k in {**before, **after} if before.get(k) != after.get(k)})
        if names:
            parts.append(f"different {what}: {_pairs(after, before, names)}")
    return formatting.cut("; ".join(parts))


def _pairs(after: dict[str, Any], before: dict[str, Any], names: list[str]) -> str:
    def value(settings: dict[str, Any], name: str) -> str:
        return formatting.cut(json.dumps(settings[name]), 80) if name in settings else "absent"

    return ", ".join(f"{n} = {value(after, n)} (the rest: {value(before, n)})" for n in names[:12])


# ---- Differences


def _differences(rows: list[tuple[Network, list[dict[str, Entry]]]]) -> list[Difference]:
    """Trained minus untrained, for scores with the same protocol, transform and images."""
    found = []
    for network, cells in rows:
        for twin, twin_cells in rows:
            if not network.random and twin.random and network.arch == twin.arch:
                row = [_difference(a, b) for a, b in zip(cells, twin_cells, strict=True)]
                if any(not isinstance(cell, str) for cell in row):
                    found.append(Difference(network.label, twin.label, row))
    return found


def _difference(
    ours: dict[str, Entry], theirs: dict[str, Entry]
) -> tuple[float, float | None] | str:
    """The difference of the means, and the known spreads added in quadrature."""
    shared = sorted((v for v in ours if v in theirs), key=lambda v: ours[v].note)
    if not shared:
        return "different protocol" if ours and theirs else ""
    a, b = ours[shared[0]], theirs[shared[0]]
    if math.isnan(a.mean) or math.isnan(b.mean):
        return ""
    spreads = [spread for spread in (a.spread, b.spread) if spread is not None]
    return a.mean - b.mean, math.hypot(*spreads) if spreads else None


# ---- Classes


def _per_class(
    members: dict[str, list[Run]], columns: list[Column], limits: Limits
) -> list[PerClass]:
    """A table for each combination of rules and protocol variant that has per-class scores."""
    groups: dict[tuple[str, str], dict[str, dict[Column, dict[str, Values]]]] = {}
    digests: dict[str, str] = {}
    for label, runs in members.items():
        for run in runs:
            assert run.network is not None
            digests[run.variant] = run.digest
            for score in run.scores:
                column = Column.of(score)
                if not score.per_class or column not in columns:
                    continue
                of = groups.setdefault((column.rules, run.variant), {}).setdefault(label, {})
                by_class = of.setdefault(column, {})
                for name, value in list(score.per_class.items())[: limits.classes]:
                    by_weights = by_class.setdefault(name, {})
                    by_weights.setdefault(run.network["sha256"], []).append((value, None))
    return [
        _class_table(f"{rules}, protocol {digests[variant]}", by_label, limits)
        for (rules, variant), by_label in groups.items()
    ]


def _class_table(
    title: str, by_label: dict[str, dict[Column, dict[str, Values]]], limits: Limits
) -> PerClass:
    labels = list(by_label)[: limits.class_networks]
    heads = [(label, list(by_label[label])[:2]) for label in labels]
    names = dict.fromkeys(c for of in by_label.values() for k in of.values() for c in k)
    shown = list(names)[: limits.classes]
    rows = {
        name: [
            entry(by_label[label][column][name]) if name in by_label[label][column] else None
            for label, columns in heads
            for column in columns
        ]
        for name in shown
    }
    more = len(by_label) - len(labels)
    left_out = f"Not shown: {more} more networks." if more else ""
    if len(shown) == limits.classes:
        left_out += f" At most {limits.classes} classes are shown."
    return PerClass(
        title,
        [(label, [c.name for c in columns]) for label, columns in heads],
        rows,
        left_out.strip(),
    )


# ---- The terminal


def summary_table(paths: Iterable[Path]) -> list[list[str]]:
    """The scores of all runs in the paths or below as rows of text, for a terminal.

    The first row is the header: Data, Score, a column for each network, and a column for the difference from
    each untrained twin.

    Raises:
        UserError: a path does not exist, or no record can be read.
    """
    networks = collect(paths).networks
    tables, _ = score_tables(networks)
    shown = networks[:6]
    twins = list(dict.fromkeys((d.network, d.twin) for table in tables for d in table.differences))[
        :3
    ]
    head = ["Data", "Score", *(network.label for network in shown)]
    rows = [head + [f"{network} minus {twin}" for network, twin in twins]]
    for table in tables:
        cells = {network.label: row for network, row in table.rows}
        points = {(d.network, d.twin): d.cells for d in table.differences}
        for k, column in enumerate(table.columns):
            row = [table.title, f"{column.name} [{column.unit}]"]
            row += [
                " / ".join(map(str, cells[n.label][k].values())) or "–" if n.label in cells else "–"
                for n in shown
            ]
            row += [_in_points(points[pair][k]) if pair in points else "–" for pair in twins]
            rows.append(row)
    return rows


def _in_points(cell: tuple[float, float | None] | str) -> str:
    if isinstance(cell, str):
        return cell or "–"
    value, spread = cell
    return formatting.points(value) + (f" ± {spread:.1f}" if spread is not None else "")


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of text as lines with aligned columns and an underlined header.

    >>> print(in_columns([["Data", "Score"], ["digits val", "61.5"]]))
    Data        Score
    ----------  -----
    digits val  61.5
    """
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in ruled
    )
