"""Scores over the epochs of a training run, from evaluations of its checkpoints.

A network belongs to an epoch if its checkpoint states one (``epoch`` in the details of the record).
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from msbreg.run.json_files import is_number
from transfer.drawing.svg import BLUE, Line, Panel, plots
from transfer.report import formatting
from transfer.report.collection import Network
from transfer.report.exports.score_rows import ScoreRow, score_rows
from transfer.report.score_tables import Column, Entry, data_name

MOST_RUNS = 12
MOST_PANELS = 8  # per training run
MOST_EPOCHS = 40  # rows of the table
_VARIES = ("epoch", "step")  # details that differ between checkpoints of one run


@dataclass(frozen=True)
class EpochCurve:
    """The scores of one training run over its epochs.

    Attributes:
        columns: names of the scores with their data, in the order of the panels.
        rows: epoch -> an entry for each column; None if the epoch was not evaluated.
        floor: the untrained network's entry for each column; None if it was not evaluated by the same
            protocol.
        left_out: what is not shown, as sentences; may be empty.
    """

    title: str
    columns: list[str]
    rows: dict[float, list[Entry | None]]
    floor: list[Entry | None]
    left_out: str
    figure: Markup


def epoch_curves(networks: Sequence[Network]) -> tuple[list[EpochCurve], int]:
    """A curve for each training run with evaluations at two epochs or more, and the number of omitted runs.

    Checkpoints belong to one training run if they lie in one folder and their records agree in name,
    architecture and all details of the training but the epoch and the step. Of several protocols of a
    score, the most frequent one is drawn.
    """
    floors = [row for row in score_rows(networks) if row.network.random]
    groups: dict[str, list[ScoreRow]] = {}
    for row in score_rows([network for network in networks if not network.random]):
        if _epoch(row.network) is not None:
            groups.setdefault(_training_run(row.network), []).append(row)
    several = [rows for rows in groups.values() if len({_epoch(row.network) for row in rows}) > 1]
    shown, more = formatting.first_items(several, MOST_RUNS)
    return [_curve(rows, floors) for rows in shown], more


def earlier_epochs(networks: Sequence[Network]) -> set[str]:
    """Labels of the networks that a later epoch of the same training run supersedes in comparisons."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for network in networks:
        epoch = _epoch(network)
        if epoch is not None and not network.random:
            groups.setdefault(_training_run(network), []).append((epoch, network.label))
    return {label for group in groups.values() for epoch, label in group if epoch < max(group)[0]}


def _provenance(network: Network) -> dict[str, Any]:
    provenance = network.runs[0].network
    assert provenance is not None
    return provenance


def _epoch(network: Network) -> float | None:
    epoch = _provenance(network)["details"].get("epoch")
    return float(epoch) if is_number(epoch) and abs(epoch) < 1e9 else None


def _training_run(network: Network) -> str:
    provenance = _provenance(network)
    details = {k: v for k, v in provenance["details"].items() if k not in _VARIES}
    folder = str(PurePath(provenance["source"]).parent)
    key = [provenance["name"], provenance["arch"], provenance["family"], folder, details]
    return json.dumps(key, sort_keys=True)


def _curve(rows: list[ScoreRow], floors: list[ScoreRow]) -> EpochCurve:
    provenance = _provenance(rows[0].network)
    title = formatting.cut(f"{provenance['name']}, {PurePath(provenance['source']).parent}", 160)
    protocols = _usual_protocols(rows)
    shown = list(protocols)[:MOST_PANELS]
    by_epoch: dict[float, dict[Column, Entry]] = {}
    for row in rows:
        epoch = _epoch(row.network)
        if epoch is not None and protocols.get(row.column) == row.variant:
            by_epoch.setdefault(epoch, {})[row.column] = row.entry
    floor = [_floor(column, protocols[column], rows[0].network.arch, floors) for column in shown]
    panels = [_panel(column, by_epoch, below) for column, below in zip(shown, floor, strict=True)]
    epochs = sorted(by_epoch)
    others = sum(protocols.get(row.column, row.variant) != row.variant for row in rows)
    return EpochCurve(
        title=title,
        columns=[f"{c.name} [{c.unit}], {data_name(c.data)}" for c in shown],
        rows={e: [by_epoch[e].get(c) for c in shown] for e in epochs[-MOST_EPOCHS:]},
        floor=floor,
        left_out=_left_out(len(protocols) - len(shown), len(epochs) - MOST_EPOCHS, others),
        figure=Markup(plots(panels, columns=4, label=f"Scores over the epochs of {title}")),
    )


def _usual_protocols(rows: list[ScoreRow]) -> dict[Column, str]:
    """Column -> the variant with the most epochs, for columns with two epochs or more by one variant."""
    counts: dict[Column, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.column, Counter())[row.variant] += 1
    usual = {column: of.most_common(1)[0] for column, of in counts.items()}
    return {column: variant for column, (variant, count) in usual.items() if count > 1}


def _floor(column: Column, variant: str, arch: str, floors: list[ScoreRow]) -> Entry | None:
    return next(
        (
            row.entry
            for row in floors
            if row.column == column and row.variant == variant and row.network.arch == arch
        ),
        None,
    )


def _panel(
    column: Column, by_epoch: dict[float, dict[Column, Entry]], below: Entry | None
) -> Panel:
    points = [
        (epoch, entries[column].mean)
        for epoch, entries in sorted(by_epoch.items())
        if column in entries and math.isfinite(entries[column].mean)
    ]
    levels = [(below.mean, "untrained")] if below and math.isfinite(below.mean) else []
    title = formatting.cut(f"{column.name} [{column.unit}], {data_name(column.data)}", 44)
    return Panel(title, [Line(points, BLUE)], "epoch", levels)


def _left_out(columns: int, epochs: int, others: int) -> str:
    found = [
        f"{columns} more scores" if columns > 0 else "",
        f"{epochs} earlier epochs in the table" if epochs > 0 else "",
        f"{others} scores by other protocols" if others else "",
    ]
    text = ", ".join(filter(None, found))
    return f"Not shown: {text}." if text else ""
