"""Scores by class as bars: each trained network beside its untrained twin, by the same protocol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from transfer.drawing.bars import BarPair, paired_bars
from transfer.report import formatting
from transfer.report.collection import Network
from transfer.report.exports.score_rows import ScoreRow, score_rows
from transfer.report.score_tables import Column, data_name

MOST_CLASSES = 40  # per figure
MOST_FIGURES = 12


@dataclass(frozen=True)
class ClassRow:
    """Means of one class over the seeds; NaN if undefined."""

    name: str
    trained: float
    untrained: float

    @property
    def difference(self) -> float:
        """Trained minus untrained."""
        return self.trained - self.untrained


@dataclass(frozen=True)
class ClassBars:
    """The classes of one score, from the largest gain over the untrained twin to the largest loss.

    Attributes:
        rows: the shown classes.
        left_out: a sentence that counts the classes that are not shown; may be empty.
    """

    title: str
    network: str
    twin: str
    score: str
    data: str
    protocol: str
    rows: list[ClassRow]
    left_out: str
    figure: Markup


def class_bars(
    networks: Sequence[Network], *, most_classes: int = MOST_CLASSES, most: int = MOST_FIGURES
) -> tuple[list[ClassBars], int]:
    """The figures, and the number of omitted ones.

    There is one for each trained network, untrained twin of the same architecture and protocol that both
    were evaluated with; of several scores of one protocol (AP, AP50, AP75), the first is drawn.
    """
    rows = [row for row in score_rows(networks) if any(score.per_class for _, score in row.found)]
    twins: dict[tuple[str, Column, str], list[ScoreRow]] = {}
    for row in rows:
        if row.network.random:
            twins.setdefault(_key(row), []).append(row)
    pairs: dict[tuple[str, str, str, str], tuple[ScoreRow, ScoreRow]] = {}
    for ours in rows:
        for theirs in twins.get(_key(ours), ()) if not ours.network.random else ():
            name = (ours.network.label, theirs.network.label, ours.column.rules, ours.variant)
            pairs.setdefault(name, (ours, theirs))
    shown, more = formatting.first_items(list(pairs.values()), most)
    return [_bars(ours, theirs, most_classes) for ours, theirs in shown], more


def _key(row: ScoreRow) -> tuple[str, Column, str]:
    """What a trained network and its twin share."""
    return row.network.arch, row.column, row.variant


def _bars(ours: ScoreRow, theirs: ScoreRow, most: int) -> ClassBars:
    column = ours.column
    trained, untrained = ours.per_class(), theirs.per_class()
    rows = [
        ClassRow(name, trained.get(name, math.nan), untrained.get(name, math.nan))
        for name in dict.fromkeys([*trained, *untrained])
    ]
    defined = [row for row in rows if math.isfinite(row.difference)]
    sign = 1 if column.higher_is_better else -1
    defined.sort(key=lambda row: -sign * row.difference)
    shown = (
        defined
        if len(defined) <= most
        else [*defined[: most - most // 2], *defined[-(most // 2) :]]
    )
    data = data_name(column.data)
    names = (ours.network.label, theirs.network.label)
    title = f"{column.name} by class, {data}: {names[0]} beside {names[1]}"
    pairs = [
        BarPair(formatting.cut(r.name, 60), r.trained, r.untrained, formatting.points(r.difference))
        for r in shown
    ]
    figure = paired_bars(
        pairs,
        legend=names,
        x_label=f"{column.name} [{column.unit}]",
        label=title,
    )
    return ClassBars(
        title=title,
        network=names[0],
        twin=names[1],
        score=column.name,
        data=data,
        protocol=ours.digest,
        rows=shown,
        left_out=_left_out(len(defined) - len(shown), len(rows) - len(defined)),
        figure=Markup(figure),
    )


def _left_out(between: int, undefined: int) -> str:
    parts = []
    if between:
        parts.append(f"{between} classes with differences between those of the two halves")
    if undefined:
        parts.append(f"{undefined} classes without a score of both networks")
    return f"Not shown: {', '.join(parts)}." if parts else ""
