"""The overview chart: one axis per main score, with networks, untrained twins and published methods."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from transfer.drawing.dot_plot import Dot, DotRow, dot_plot
from transfer.drawing.svg import BLUE, GRAY, GREEN, ORANGE, PURPLE
from transfer.report import formatting
from transfer.report.overview.main_scores import MainScore, Summary, SummaryRow
from transfer.report.score_tables import Column, Entry

MOST_ROWS, MOST_NETWORKS = 16, 8
_COLORS = (BLUE, ORANGE, GREEN, PURPLE)
_UNTRAINED = "u"
_LEAST = {"%": 10.0}  # unit -> smallest range of an axis


@dataclass(frozen=True)
class Baseline:
    """A published value of a main score: the method with its backbone, and the source."""

    label: str
    value: float
    source: str
    backbone: str = ""


@dataclass(frozen=True)
class Overview:
    """The chart.

    Attributes:
        marks: mark -> network.
        numbers: for each axis the named values, as text: the same content for readers without the figure.
        backbones: of the published values, as text; empty if there are none.
    """

    figure: Markup
    marks: dict[str, str]
    numbers: list[tuple[MainScore, str]]
    backbones: str
    left_out: str


def overview(
    summary: Summary, baselines: Mapping[Column, Sequence[Baseline]] = {}
) -> Overview | None:
    """The chart of a summary; None if there is nothing to compare.

    Args:
        baselines: published values of some columns.
    """
    networks = summary.of("network")[:MOST_NETWORKS]
    marks = {row.label: str(number) for number, row in enumerate(networks, 1)}
    drawn: list[tuple[MainScore, DotRow]] = []
    for number, column in enumerate(summary.columns):
        cited = column.column in baselines
        dots = [
            *_published(
                baselines.get(column.column, ()),
                [e.mean for e in _entries(networks, number)],
                column,
            ),
            *(
                Dot(one.mean, row.label, _UNTRAINED, GRAY, one.spread, dashed=True, outside=cited)
                for row in summary.of("untrained")
                for one in _entries([row], number)
            ),
            *(
                Dot(one.mean, row.label, marks[row.label], _COLORS[k % len(_COLORS)], one.spread)
                for k, row in enumerate(networks)
                for one in _entries([row], number)
            ),
        ]
        if len(dots) > 1:
            arrow = "" if column.column.higher_is_better else ", lower is better"
            drawn.append(
                (
                    column,
                    DotRow(
                        f"{column.column.name} on {column.data}",
                        f"{column.rules}, {column.column.unit}{arrow}".removeprefix(", "),
                        dots,
                        _LEAST.get(column.column.unit, 0.0),
                    ),
                )
            )
    if not drawn:
        return None
    shown = drawn[:MOST_ROWS]
    figure = dot_plot([row for _, row in shown], label="Main scores of all networks, one axis each")
    legend = {mark: label for label, mark in marks.items()}
    if any(dot.mark == _UNTRAINED for _, row in shown for dot in row.dots):
        legend[_UNTRAINED] = "untrained"
    return Overview(
        Markup(figure),
        legend,
        [(column, _said(row)) for column, row in shown],
        _backbones(one for column, _ in shown for one in baselines.get(column.column, ())),
        f"Not shown: {len(drawn) - MOST_ROWS} more main scores." if drawn[MOST_ROWS:] else "",
    )


def _backbones(published: Iterable[Baseline]) -> str:
    """The backbones of published values, each once."""
    return ", ".join(dict.fromkeys(one.backbone or "unknown backbone" for one in published))


def _entries(rows: Sequence[SummaryRow], number: int) -> list[Entry]:
    """The defined entries of the rows in this column."""
    cells = [row.cells[number] for row in rows]
    return [c.entry for c in cells if c is not None and not math.isnan(c.entry.mean)]


def _published(
    baselines: Sequence[Baseline], ours: Sequence[float], column: MainScore
) -> list[Dot]:
    """A tick for each published value; the best one and the neighbors of our best one are named."""
    if not baselines:
        return []
    choose = max if column.column.higher_is_better else min
    best = choose(b.value for b in baselines)
    named = {best}
    if ours:
        own = choose(ours)
        below = [b.value for b in baselines if b.value <= own]
        above = [b.value for b in baselines if b.value > own]
        named = {*([max(below)] if below else []), *([min(above)] if above else []), best}
    dots, said = [], set()
    for baseline in sorted(baselines, key=lambda b: b.value):
        name = baseline.value in named and baseline.value not in said
        said |= {baseline.value} if name else set()
        dots.append(Dot(baseline.value, formatting.cut(baseline.label, 34), named=name))
    return dots


def _said(row: DotRow) -> str:
    """The values of an axis as text, the highest first; of the published ones those with a name."""
    dots = [dot for dot in row.dots if dot.mark or dot.named]
    return "; ".join(
        f"{dot.label}{' (published)' if not dot.mark else ''} {dot.value:.1f}"
        for dot in sorted(dots, key=lambda dot: -dot.value)
    )
