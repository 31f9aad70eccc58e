"""The summary of a report: one main score per protocol and data set, for every network.

The main score of a run is the first one in its record. Runs whose main scores can be compared share a
column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transfer.report import formatting
from transfer.report.collection import Network
from transfer.report.epoch_curves import earlier_epochs
from transfer.report.leaderboard import Words, word_about
from transfer.report.score_tables import Column, Entry, Table, data_name

MOST_COLUMNS, MOST_NETWORKS = 30, 60

Role = Literal["network", "untrained"]


@dataclass(frozen=True)
class MainScore:
    """A column of the summary.

    Attributes:
        kind: the protocol, such as ``kNN``.
        data: name and split of the data.
        rules: what tells it from another column of the same name and data; empty if there is none.
    """

    kind: str
    data: str
    column: Column
    rules: str = ""

    @property
    def title(self) -> str:
        """Score and data, with the rules if they are needed to tell two columns apart."""
        name = f"{self.column.name} on {self.data}"
        return f"{name}, {self.rules}" if self.rules else name


@dataclass(frozen=True)
class Cell:
    """A main score of one network.

    Attributes:
        variant: of the protocol, transform and images.
        best: whether it is the best of several trained networks in its column.
        difference: the score minus that of the untrained twin under the same protocol, transform and
            images; None if there is no such twin.
        word: of the verdict on this difference; empty if it was not tested.
    """

    entry: Entry
    variant: str
    best: bool = False
    difference: float | None = None
    word: str = ""


@dataclass(frozen=True)
class SummaryRow:
    """A network with one cell per column; None where it was not evaluated."""

    label: str
    role: Role
    cells: list[Cell | None]


@dataclass(frozen=True)
class Summary:
    """The columns and rows; untrained networks, the floor of each column, come last."""

    columns: list[MainScore]
    rows: list[SummaryRow]
    left_out: str

    def of(self, role: Role) -> list[SummaryRow]:
        """The rows of trained networks or those of untrained ones."""
        return [row for row in self.rows if row.role == role]


def summarize(
    networks: Sequence[Network], tables: Sequence[Table], words: Words | None = None
) -> Summary:
    """The summary of the score tables of these networks, without earlier epochs of a training run."""
    earlier = earlier_epochs(networks)
    networks = [network for network in networks if network.label not in earlier]
    kinds = _main_columns(networks)
    places = [
        (table, number)
        for table in tables
        for number, column in enumerate(table.columns)
        if column in kinds
    ]
    shown = places[:MOST_COLUMNS]
    rows = [_row(network, shown, words or {}) for network in networks[:MOST_NETWORKS]]
    left_out = [f"{len(earlier)} checkpoints of earlier epochs"] if earlier else []
    left_out += [
        f"{count - most} more {what}"
        for count, most, what in (
            (len(places), MOST_COLUMNS, "columns"),
            (len(networks), MOST_NETWORKS, "networks"),
        )
        if count > most
    ]
    columns = [table.columns[number] for table, number in shown]
    return Summary(
        columns=[
            MainScore(kinds[c], data_name(c.data), c, _telling_rules(c, columns)) for c in columns
        ],
        rows=_with_best(rows, columns),
        left_out=f"Not shown: {', '.join(left_out)}." if left_out else "",
    )


def _telling_rules(column: Column, columns: Sequence[Column]) -> str:
    """What tells a column from others of the same name and data: the end of its rules, or all of them."""
    others = [
        other.rules
        for other in columns
        if other != column
        and (other.name, data_name(other.data)) == (column.name, data_name(column.data))
    ]
    if not others:
        return ""
    end = column.rules.rpartition(", ")[2]
    return column.rules if end in [rules.rpartition(", ")[2] for rules in others] else end


def _main_columns(networks: Sequence[Network]) -> dict[Column, str]:
    """The column of the first score of each run -> its protocol, in the order of the runs.

    The gate is a check of the network, not a protocol.
    """
    found = (run for network in networks for run in network.runs if run.gate is None)
    runs = sorted(found, key=lambda run: run.started)
    kinds: dict[Column, str] = {}
    for run in runs:
        kinds.setdefault(Column.of(run.scores[0]), formatting.kind(run.kind))
    return kinds


def _row(network: Network, places: Sequence[tuple[Table, int]], words: Words) -> SummaryRow:
    cells = [_cell(network, table, number, words) for table, number in places]
    return SummaryRow(network.label, "untrained" if network.random else "network", cells)


def _cell(network: Network, table: Table, number: int, words: Words) -> Cell | None:
    """The entry of the column's usual protocol if there is one, else the first."""
    entries = next((cells[number] for of, cells in table.rows if of == network), {})
    if not entries:
        return None
    variant, entry = min(entries.items(), key=lambda item: item[1].note != "")
    for twin, cells in table.rows if not network.random else ():
        theirs = cells[number].get(variant)
        if not twin.random or twin.arch != network.arch or theirs is None:
            continue
        difference = entry.mean - theirs.mean
        if math.isfinite(difference):
            word = word_about(network.label, twin.label, table.columns[number], variant, words)
            return Cell(entry, variant, difference=difference, word=word)
    return Cell(entry, variant)


def _with_best(rows: list[SummaryRow], columns: Sequence[Column]) -> list[SummaryRow]:
    """The same rows with the best trained network of each column marked, if there are several."""
    trained = [row for row in rows if row.role == "network"]
    best: list[float | None] = []
    for number, column in enumerate(columns):
        cells = [cell for row in trained if (cell := row.cells[number]) is not None]
        means = [c.entry.mean for c in cells if not c.entry.note and not math.isnan(c.entry.mean)]
        choose = max if column.higher_is_better else min
        best.append(choose(means) if len(means) > 1 else None)
    return [
        row
        if row.role == "untrained"
        else SummaryRow(
            row.label,
            row.role,
            [
                cell if cell is None else replace(cell, best=_is_best(cell.entry, value))
                for cell, value in zip(row.cells, best, strict=True)
            ],
        )
        for row in rows
    ]


def _is_best(entry: Entry, best: float | None) -> bool:
    return best is not None and entry.mean == best and not entry.note
