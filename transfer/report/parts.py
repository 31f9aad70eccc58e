"""The scores as they are printed: one table of the frozen protocols, one of each detectors' data."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from transfer.report.collect import column_title, data_title
from transfer.report.runs import Column
from transfer.report.tables import Difference, Entry, Scores, difference_table


@dataclass(frozen=True)
class Part:
    """Columns that stand side by side.

    Attributes:
        title: empty where each column has its own data.
        groups: what stands above neighboring columns, and above how many; may be empty.
        headings: name of each column, and a smaller line below it.
        rows: label of a network and its cells; each cell has one entry for each variant.
        differences: rows of points, to the random network.
    """

    title: str
    groups: list[tuple[str, int]]
    headings: list[tuple[str, str]]
    rows: list[tuple[str, list[dict[str, Entry]]]]
    differences: list[Difference]

    @property
    def above(self) -> list[str]:
        """What stands above each column; may be empty."""
        return [title for title, count in self.groups for _ in range(count)]


def parts_of(table: Scores) -> list[Part]:
    """The whole table, cut where a detector's data begin."""
    differences = difference_table(table)
    return [
        _part(table, differences, list(indices))
        for _, indices in groupby(
            range(len(table.columns)), lambda index: _data(table.columns[index])
        )
    ]


def _data(column: Column) -> tuple[str, str]:
    return data_of(column) if column.kind == "detection" else ("", "")


def data_of(column: Column) -> tuple[str, str]:
    """Equal for columns on the same images."""
    return column.data, column.fingerprints


def _part(table: Scores, differences: list[Difference], indices: list[int]) -> Part:
    columns = [table.columns[index] for index in indices]
    rows = [
        (network.label, [cells[index] for index in indices])
        for network, cells in zip(table.networks, table.cells, strict=True)
    ]
    shown = [
        Difference(row.network, row.twin, [row.cells[index] for index in indices])
        for row in differences
    ]
    detection = columns[0].kind == "detection"
    return Part(
        title=data_title(columns[0], table.columns) if detection else "",
        groups=_groups(columns) if detection else [],
        headings=[
            (column.metric.partition("_")[2], "")
            if detection
            else (column_title(column), data_title(column, table.columns))
            for column in columns
        ],
        rows=[(label, cells) for label, cells in rows if any(cells)],
        differences=[row for row in shown if any(isinstance(cell, float) for cell in row.cells)],
    )


def _groups(columns: Iterable[Column]) -> list[tuple[str, int]]:
    """Boxes or masks, by which rules, and over how many columns."""

    def name(column: Column) -> str:
        what = column.metric.partition("_")[0]
        return f"{what}, {column.measure}" if column.measure else what

    return [(title, len(list(group))) for title, group in groupby(columns, name)]


def evaluated(table: Scores) -> list[str]:
    """For the opening: what was measured, on which data."""
    return list(
        dict.fromkeys(
            f"{column.metric.partition('_')[0]} AP on {column.data}"
            if column.kind == "detection"
            else f"{column_title(column)} on {data_title(column, table.columns)}"
            for column in table.columns
        )
    )
