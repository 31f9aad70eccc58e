"""The verdict at the top of the report: what was evaluated, how it compares, and the worst warning."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report import formatting
from transfer.report.collection import Collection
from transfer.report.conversions import Conversion
from transfer.report.leaderboard import Words, word_about
from transfer.report.overview.gates import gates
from transfer.report.overview.main_scores import Summary, SummaryRow
from transfer.report.score_tables import Table

_MOST_NAMES, _MOST_DATA, _MOST_SENTENCES = 3, 4, 4
# Word -> the phrase before "its untrained twin", and the phrase in a list.
_PHRASES = {
    "better": ("better than", "better"),
    "worse": ("worse than", "worse"),
    "same": ("the same as", "the same"),
    "equal": ("equal to", "equal"),
    "unclear": ("not clearly different from", "unclear"),
}


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
    words: Words | None = None,
) -> Headline:
    """The headline of a collection of runs.

    Differences without a verdict are counted by their sign, and the headline says that they were not tested.

    Args:
        words: the verdicts of the summary.
    """
    found = warnings(collection, summary, tables, conversions)
    return Headline(
        [
            _what(summary),
            *_of_gates(collection),
            *_against_twins(summary),
            *_against_others(summary, words or {}),
        ],
        found[0] if found else "",
        len(found),
    )


def _what(summary: Summary) -> str:
    networks = summary.of("network") or summary.rows
    if not networks or not summary.columns:
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


def _of_gates(collection: Collection) -> list[str]:
    found = gates(collection)
    if not found:
        return []
    if len(found) > _MOST_SENTENCES:
        counts = Counter(gate.verdict for gate in found)
        return [f"Gate: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}."]
    return [f"Gate: {'; '.join(f'{gate.network} {gate.verdict}' for gate in found)}."]


# ---- Comparisons


def _against_twins(summary: Summary) -> list[str]:
    """For each of the first trained networks, in how many main scores it is better than its twin."""
    networks = summary.of("network")
    sentences = []
    for row in networks[:_MOST_SENTENCES]:
        if text := _against_twin(row, summary):
            sentences.append(f"{'It' if len(networks) == 1 else row.label} is {text}.")
    more = len(networks) - _MOST_SENTENCES
    if sentences and more > 0:
        sentences.append(f"The summary has {more} more networks.")
    return sentences


def _against_twin(row: SummaryRow, summary: Summary) -> str:
    tested: Counter[str] = Counter()
    untested: Counter[str] = Counter()
    for cell, main in zip(row.cells, summary.columns, strict=True):
        if cell is None or cell.difference is None:
            continue
        if not cell.word:
            ahead = cell.difference if main.column.higher_is_better else -cell.difference
            untested["better" if ahead > 0 else "worse" if ahead < 0 else "equal"] += 1
        else:
            tested[cell.word] += 1
    parts = [_counted(tested)] if tested else []
    parts += [f"{_counted(untested)}, without a test of the difference"] if untested else []
    return "; ".join(parts)


def _counted(words: Counter[str]) -> str:
    """``better than its untrained twin in 3 of 4 main scores, worse in 1``."""
    first, *others = (word for word in _PHRASES if words[word])
    parts = [f"{_PHRASES[first][0]} its untrained twin in {_share(words[first], words.total())}"]
    return ", ".join([*parts, *(f"{_PHRASES[word][1]} in {words[word]}" for word in others)])


def _share(count: int, total: int) -> str:
    return "one main score" if total == 1 else f"{count} of {total} main scores"


def _against_others(summary: Summary, words: Words) -> list[str]:
    """Which of several trained networks has the best main score how often, and how often a test agrees."""
    networks = summary.of("network")
    wins: Counter[str] = Counter()
    clear: Counter[str] = Counter()
    for number, main in enumerate(summary.columns):
        cells = {row.label: cell for row in networks if (cell := row.cells[number]) is not None}
        for label in (label for label, cell in cells.items() if cell.best):
            wins[label] += 1
            variant = cells[label].variant
            clear[label] += all(
                word_about(label, other, main.column, variant, words) == "better"
                for other in cells
                if other != label
            )
    if not wins:
        return []
    (best, count), *_ = wins.most_common(1)
    tested = f"; tests against every other network confirm {clear[best]}" if words else ""
    contested = sum(
        any(cell is not None and cell.best for cell in column)
        for column in zip(*(row.cells for row in networks), strict=True)
    )
    return [f"Of several networks, {best} is the best in {_share(count, contested)}{tested}."]


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
    found = [gate.warning for gate in gates(collection) if gate.warning]
    found += [
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
