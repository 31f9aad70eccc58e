"""The networks of a report beside published numbers: in the paper's tables and in leaderboards."""

import functools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.json_files import read_json
from msbreg.run.record import read_record
from transfer.published import (
    OurRow,
    OurScore,
    PaperTable,
    Published,
    ablation_paper_tables,
    baselines_of,
    paper_tables,
    protocol_differences,
    published_scores,
    settings_of,
)
from transfer.published.result_tables import backbone_name, published_label
from transfer.report import formatting
from transfer.report.collection import Network
from transfer.report.exports.score_rows import ScoreRow, score_rows
from transfer.report.leaderboard import Reference, References
from transfer.report.score_tables import Column
from transfer.scoring.scores import Score

MOST_ROWS = 60  # networks in the paper's tables
MOST_ABLATIONS = 20
ABLATION_FILE = "table.json"  # of pretrain/ablate.py


def tables_of_the_paper(
    networks: Sequence[Network], paths: Iterable[Path]
) -> tuple[list[PaperTable], list[str]]:
    """The paper's tables in which a network or an ablation has a value, and messages about invalid files.

    Untrained networks have rows as well: they are the floor of each table.

    Args:
        paths: folders with or above the ablations.
    """
    tables = paper_tables(paper_rows(networks[:MOST_ROWS]))
    records, problems = [], []
    for file in _ablation_files(paths)[:MOST_ABLATIONS]:
        try:
            record = read_json(file)
            ablation_paper_tables([record])
            records.append(record)
        except UserError as error:
            problems.append(formatting.cut(f"{file}: {error}"))
    return [*tables, *ablation_paper_tables(records)], problems


def _ablation_files(paths: Iterable[Path]) -> list[Path]:
    return list(
        dict.fromkeys(
            Path(parent, ABLATION_FILE)
            for path in paths
            for parent, _, names in os.walk(path)
            if ABLATION_FILE in names
        )
    )


def paper_rows(networks: Sequence[Network]) -> list[OurRow]:
    """A row of ``paper_tables`` for each network: its means with spreads and the settings of its runs."""
    return [
        OurRow(
            label=network.label,
            arch=network.arch,
            scores=tuple(
                OurScore(_mean(row), row.entry.spread, row.entry.scope, _settings(row))
                for row in score_rows([network])
                if _may_be_published(row)
            ),
            epochs=_epochs(network),
            batch_size=_count(_details(network).get("batch_size")),
        )
        for network in networks
    ]


def references(networks: Sequence[Network]) -> dict[Column, References]:
    """The published scores that answer each column, of our architectures if there are such."""
    backbones = {backbone_name(network.arch).partition(",")[0] for network in networks}
    found: dict[Column, References] = {}
    for row in score_rows([network for network in networks if not network.random]):
        if row.column in found or not _may_be_published(row):
            continue
        settings = _settings(row)
        if baselines := baselines_of(_mean(row), settings):
            same = [one for one in baselines if one.backbone in backbones]
            scores = tuple(Reference(_label(one), one.score.value) for one in same or baselines)
            found[row.column] = References(scores, protocol_differences(_mean(row), settings))
    return found


@functools.cache
def _published_names() -> frozenset[tuple[str, str]]:
    return frozenset((one.score.name, one.score.unit) for one in published_scores())


def _may_be_published(row: ScoreRow) -> bool:
    """Whether a published number has this name, so that the settings of the run are needed."""
    known = (row.column.name, row.column.unit) in _published_names()
    return known and math.isfinite(row.entry.mean)


def _mean(row: ScoreRow) -> Score:
    first = row.found[0][1]
    return Score(**{**vars(first), "value": row.entry.mean, "stderr": None})


def _settings(row: ScoreRow) -> dict[str, Any] | None:
    """The settings of the first run, read again; None if the record was changed in the meantime."""
    try:
        record = read_record(row.found[0][0].folder)
    except UserError:
        return None
    return settings_of(record) if record else None


def _details(network: Network) -> dict[str, Any]:
    provenance = network.runs[0].network
    assert provenance is not None
    details: dict[str, Any] = provenance["details"]
    return details


def _epochs(network: Network) -> int | None:
    """Epochs of pre-training: those so far for a checkpoint of an unfinished training, 0 if untrained."""
    if network.random:
        return 0
    epochs, epoch = (_count(_details(network).get(name)) for name in ("epochs", "epoch"))
    return epoch if epochs is not None and epoch is not None else epochs


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 10**9 else None


def _label(one: Published) -> str:
    variant = one.variant.partition("; printed ")[0]  # without remarks on where it is printed
    parts = [published_label(one.method, variant), one.backbone]
    parts += [f"{one.epochs} epochs"] if one.epochs else []
    return f"{', '.join(filter(None, parts))} [{one.source}, {one.table}]"
