"""The verdict at the top of the report: what was evaluated, how it compares, and the worst warning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report import formatting
from transfer.report.collection import Collection
from transfer.report.conversions import Conversion
from transfer.report.overview.main_scores import Summary, SummaryRow
from transfer.report.score_tables import Table

_MOST_NAMES, _MOST_DATA, _MOST_SENTENCES = 3, 4, 4


@dataclass(frozen=True)
class Headline:
    """Sentences of the verdict, and the worst warning with the number of all warnings."""

    sentences: list[str]
    warning: str
    warnings: int


def headline(
    collection: Collection,
    summary: Summary,
    tables: Sequence[Table],
    conversions: Sequence[Conversion | str] = (),
) -> Headline:
    """The headline of a collection of runs."""
    found = warnings(collection, summary, tables, conversions)
    return Headline(
        [_what(summary), *_against_twins(summary), *_against_others(summary)],
        found[0] if found else "",
        len(found),
    )


def _what(summary: Summary) -> str:
    networks = summary.of("network") or summary.rows
    if not networks:
        return "No finished evaluation was found."
    names = [row.label for row in networks]
    kinds = list(dict.fromkeys(column.kind for column in summary.columns))
    data = list(dict.fromkeys(column.data for column in summary.columns))
    who = _listed(names, _MOST_NAMES, "networks")
    verb = "was" if len(names) == 1 else "were"
    return (
        f"{who} {verb} evaluated by {_listed(kinds, 6, 'protocols')} on "
        f"{_listed(data, _MOST_DATA, 'data sets')}."
    )


def _listed(names: Sequence[str], most: int, what: str) -> str:
    """``A``, ``A and B``, ``A, B and C``, or ``12 networks``."""
    if len(names) > most:
        return f"{len(names)} {what}"
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# ---- Comparisons


def _against_twins(summary: Summary) -> list[str]:
    """For each of the first trained networks, on how many protocols it scores higher than its twin."""
    if not summary.of("untrained"):
        return []
    networks = summary.of("network")
    said = [
        (row, text) for row in networks[:_MOST_SENTENCES] if (text := _against_twin(row, summary))
    ]
    if len(networks) == 1:
        return [f"It scores {text}." for _, text in said]
    sentences = [f"{row.label} scores {text}." for row, text in said]
    more = len(networks) - _MOST_SENTENCES
    return sentences + ([f"The summary has {more} more networks."] if more > 0 else [])


def _against_twin(row: SummaryRow, summary: Summary) -> str:
    signs = [
        math.copysign(1, cell.difference) * (1 if column.column.higher_is_better else -1)
        if cell.difference
        else 0.0
        for cell, column in zip(row.cells, summary.columns, strict=True)
        if cell is not None and cell.difference is not None
    ]
    if not signs:
        return ""
    better, worse, equal = signs.count(1), signs.count(-1), signs.count(0)
    return _of_all(better, worse, equal)


def _of_all(better: int, worse: int, equal: int) -> str:
    """``better than its untrained twin in 3 of 4 main scores, worse in 1``."""
    if better + worse + equal == 1:
        word = "better than" if better else "worse than" if worse else "the same as"
        return f"{word} its untrained twin"
    parts = [f"better than its untrained twin in {better} of {better + worse + equal} main scores"]
    parts += [f"{word} in {count}" for word, count in (("worse", worse), ("equal", equal)) if count]
    return ", ".join(parts)


def _against_others(summary: Summary) -> list[str]:
    """Which of several trained networks has the best main score how often."""
    networks = summary.of("network")
    columns = zip(*(row.cells for row in networks), strict=True)
    contested = sum(any(cell is not None and cell.best for cell in column) for column in columns)
    counts = [
        (sum(cell.best for cell in row.cells if cell is not None), row.label) for row in networks
    ]
    leading = sorted((c for c in counts if c[0]), key=lambda c: -c[0])[:2]
    if not leading:
        return []
    first, *others = (f"{label} in {count}" for count, label in leading)
    return [
        f"Of the {contested} main score{'s' if contested > 1 else ''} of several networks, the best is {first}"
        f"{''.join(f', {text}' for text in others)}."
    ]


# ---- Warnings


def warnings(
    collection: Collection,
    summary: Summary,
    tables: Sequence[Table],
    conversions: Sequence[Conversion | str] = (),
) -> list[str]:
    """What a reader of the scores should know, the worst first."""
    evaluations = collection.evaluations
    runs = [*evaluations, *collection.others, *collection.trainings]
    found = [
        f"{network.label}: {text}"
        for network in collection.networks
        if not network.random
        for text in dict.fromkeys(
            str(text) for run in network.runs for text in (run.network or {}).get("warnings", ())
        )
    ]
    found += [
        f"The conversion {item.title} does not apply: {item.state or 'it did not pass'}"
        for item in conversions
        if not isinstance(item, str) and (item.state or not item.passed)
    ]
    failed = [run for run in collection.unfinished if run.status == "failed"]
    found += [f"{run.kind} in {run.folder} failed: {run.error or 'no reason'}" for run in failed]
    found += list(dict.fromkeys(table.incomplete for table in tables if table.incomplete))
    found += list(dict.fromkeys(text for run in runs for text in run.warnings))
    found += list(collection.unread)
    found += [problem for run in evaluations for problem in run.problems]
    waiting = len(collection.unfinished) - len(failed)
    if waiting:
        found.append(f"{waiting} runs are not finished and have no scores")
    if summary.of("network") and not summary.of("untrained"):
        found.append("No untrained network was evaluated: the scores have no floor to compare with")
    return [formatting.cut(text) for text in dict.fromkeys(found)]
