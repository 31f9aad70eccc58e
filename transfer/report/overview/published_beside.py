"""Published numbers beside the scores: baselines of main scores, rows of the summary, the paper's tables."""

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.json_files import is_number, read_json
from msbreg.run.record import read_record
from transfer.published.ablation_paper_tables import ablation_paper_tables
from transfer.published.paper_table import OurRow, OurScore, PaperTable
from transfer.published.published_numbers import Published
from transfer.published.result_tables import paper_tables
from transfer.published.task_matching import baselines_of, settings_of, task_of
from transfer.report import formatting
from transfer.report.collection import Collection, Network
from transfer.report.exports.score_rows import ScoreRow, score_rows
from transfer.report.overview.main_scores import Summary
from transfer.report.overview.overview_chart import Baseline
from transfer.report.runs import Run
from transfer.report.score_tables import Column

ABLATION = "table.json"  # of pretrain/ablate.py
MOST_ROWS, MOST_ABLATIONS = 60, 20


@dataclass(frozen=True)
class PublishedRow:
    """A row of the summary: a published value per column, or None."""

    label: str
    note: str
    cells: list[Baseline | None]


def baselines(networks: Sequence[Network]) -> dict[Column, list[Baseline]]:
    """The published values of every score of trained networks that answers a published column."""
    found: dict[Column, list[Baseline]] = {}
    for row in score_rows([network for network in networks if not network.random]):
        if row.column not in found and (published := _published_of(row)):
            found[row.column] = [_baseline(one) for one in published]
    return found


def _published_of(row: ScoreRow) -> tuple[Published, ...]:
    run, score = row.found[0]
    if task_of(score) is None:  # the record is read again only where it matters
        return ()
    return baselines_of(score, settings_of_run(run))


def settings_of_run(run: Run) -> dict[str, Any] | None:
    """The settings of a run; None if the record was changed after it was read."""
    try:
        record = read_record(run.folder)
    except UserError:
        return None
    return settings_of(record) if record else None


def _baseline(one: Published) -> Baseline:
    return Baseline(
        f"{one.label}, {one.epochs} epochs" if one.epochs else one.label,
        one.score.value,
        f"{one.source}, {one.table}",
        one.backbone,
    )


def published_rows(
    summary: Summary, known: Mapping[Column, Sequence[Baseline]]
) -> list[PublishedRow]:
    """The best published value and the median one of each main score; no rows if there are none."""
    best: list[Baseline | None] = []
    typical: list[Baseline | None] = []
    for main in summary.columns:
        values = known.get(main.column, ())
        choose = max if main.column.higher_is_better else min
        best.append(choose(values, key=lambda one: one.value) if values else None)
        middle = statistics.median(one.value for one in values) if values else None
        count = f"{len(values)} published"
        typical.append(None if middle is None else Baseline(count, middle, "", ""))
    if not any(best):
        return []
    return [
        PublishedRow(
            "Best published", "as printed in the sources, whose protocols may differ", best
        ),
        PublishedRow("Median published", "over methods and epochs", typical),
    ]


# ---- Tables of the paper


def tables_of_the_paper(
    collection: Collection, paths: Iterable[Path]
) -> tuple[list[PaperTable], list[str]]:
    """The paper's tables with the user's rows, and messages about ablations that cannot be used.

    Untrained networks have rows as well: they are the floor of each table.
    """
    ablations, problems = _ablations(paths)
    tables = paper_tables(_our_rows(collection)) + ablation_paper_tables(ablations)
    return sorted(tables, key=lambda table: int(table.number)), problems


def _our_rows(collection: Collection) -> list[OurRow]:
    trainings = {run.weights: run for run in collection.trainings if run.done and run.weights}
    rows = score_rows(collection.networks)
    by_network: dict[str, list[ScoreRow]] = {}
    for row in rows:
        if math.isfinite(row.entry.mean) and task_of(row.found[0][1]) is not None:
            by_network.setdefault(row.network.label, []).append(row)
    return [_our_row(of, trainings) for of in list(by_network.values())[:MOST_ROWS]]


def _our_row(rows: Sequence[ScoreRow], trainings: Mapping[str, Run]) -> OurRow:
    network = rows[0].network
    record = rows[0].found[0][0].network or {}
    training = trainings.get(str(record.get("sha256")))
    numbers = training.numbers if training else {}
    epochs = 0 if network.random else _epochs(record.get("details", {}), numbers)
    batch_size = numbers.get("batch_size")
    return OurRow(
        label=network.label,
        arch=network.arch,
        scores=tuple(map(_our_score, rows)),
        epochs=int(epochs) if is_number(epochs) else None,
        batch_size=None if batch_size is None else int(batch_size),
    )


def _epochs(details: Mapping[str, Any], numbers: Mapping[str, float]) -> Any:
    """Epochs of the training; those so far for a checkpoint of a training that went on."""
    planned = details.get("epochs", numbers.get("epochs"))
    return details.get("epoch", planned) if is_number(planned) else planned


def _our_score(row: ScoreRow) -> OurScore:
    run, score = row.found[0]
    mean = replace(score, value=row.entry.mean, stderr=None)
    return OurScore(mean, row.entry.spread, row.entry.scope, settings_of_run(run))


def _ablations(paths: Iterable[Path]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The ablations in the folders or below that can be used, and messages about the others."""
    files = dict.fromkeys(
        Path(parent, ABLATION)
        for path in paths
        for parent, _, names in os.walk(path)
        if ABLATION in names
    )
    found: list[Mapping[str, Any]] = []
    problems = []
    for file in list(files)[:MOST_ABLATIONS]:
        try:
            record = read_json(file)
            ablation_paper_tables([record])
        except UserError as error:
            problems.append(formatting.cut(f"{file}: {error}"))
        else:
            found.append(record)
    return found, problems
