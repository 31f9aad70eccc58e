"""The verdict at the top of the report: what was evaluated, how it compares, and the worst warning."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transfer.report import formatting
from transfer.report.collection import Collection
from transfer.report.conversions import Conversion
from transfer.report.leaderboard import Words, word_about
from transfer.report.overview.gates import gates
from transfer.report.overview.main_scores import Cell, MainScore, Summary, SummaryRow
from transfer.report.overview.overview_chart import Baseline
from transfer.report.runs import Run
from transfer.report.score_tables import Column, Table

_MOST_NAMES, _MOST_KINDS, _MOST_DATA, _MOST_SENTENCES = 3, 12, 8, 4
_MOST_SCORES = 3  # named, of those that are not better
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
    """The top of the report.

    Attributes:
        sentences: of the verdict.
        checkpoints: (network, its file, epochs and sha256) of the first trained networks.
        cautions: what the scores cannot tell, as sentences.
        warning: the worst one.
        warnings: number of all warnings.
    """

    sentences: list[str]
    checkpoints: list[tuple[str, str]]
    cautions: list[str]
    warning: str
    warnings: int


def headline(
    collection: Collection,
    summary: Summary,
    tables: Sequence[Table],
    conversions: Sequence[Conversion | str] = (),
    words: Words | None = None,
    published: Mapping[Column, Sequence[Baseline]] | None = None,
) -> Headline:
    """The headline of a collection of runs.

    Differences without a verdict are counted by their sign, and the headline says that they were not tested.

    Args:
        words: the verdicts of the summary.
        published: published values of some columns.
    """
    found = warnings(collection, summary, tables, conversions)
    return Headline(
        [
            _what(summary),
            *_of_gates(collection),
            *_against_twins(summary),
            *_against_others(summary, words or {}),
            *_against_published(summary, published or {}),
        ],
        _checkpoints(collection, summary),
        _cautions(summary, published or {}),
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
        f"{who} {verb} evaluated by {_listed(kinds, _MOST_KINDS, 'protocols')} on "
        f"{_listed(data, _MOST_DATA, 'data sets')}."
    )


def _listed(names: Sequence[str], most: int, what: str) -> str:
    """``A``, ``A and B``, ``A, B and C``, or ``12 networks``."""
    if len(names) > most:
        return f"{len(names)} {what}"
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _checkpoints(collection: Collection, summary: Summary) -> list[tuple[str, str]]:
    """Which files the trained networks of the summary are."""
    shown = {row.label for row in summary.of("network")[:_MOST_SENTENCES]}
    return [
        (network.label, _files(network.runs))
        for network in collection.networks
        if network.label in shown
    ]


def _files(runs: Iterable[Run]) -> str:
    """``runs/pretrain/checkpoint.pth, 3 epochs, sha256 90caa46b528b``, and the number of further seeds."""
    of = {run.network["sha256"]: run.network for run in runs if run.network is not None}
    first, *more = of.values()
    epochs = first["details"].get("epoch", first["details"].get("epochs"))
    parts = [str(first["source"]), f"{epochs} epoch{'s' * (epochs != 1)}" if epochs else ""]
    parts += [
        f"sha256 {first['sha256'][:12]}",
        f"and {len(more)} more seed{'s' * (len(more) > 1)}" if more else "",
    ]
    return formatting.cut(", ".join(filter(None, parts)), 200)


def _of_gates(collection: Collection) -> list[str]:
    found = gates(collection)
    if not found:
        return []
    if len(found) > _MOST_SENTENCES:
        counts = Counter(gate.verdict for gate in found)
        return [
            f"First look (gate): {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}."
        ]
    return [f"First look (gate): {'; '.join(f'{gate.network} {gate.verdict}' for gate in found)}."]


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
    tested: dict[str, list[str]] = {}
    untested: dict[str, list[str]] = {}
    for cell, main in zip(row.cells, summary.columns, strict=True):
        if cell is None or cell.difference is None:
            continue
        if not cell.word:
            ahead = cell.difference if main.column.higher_is_better else -cell.difference
            word = "better" if ahead > 0 else "worse" if ahead < 0 else "equal"
            untested.setdefault(word, []).append(main.title)
        else:
            tested.setdefault(cell.word, []).append(main.title)
    parts = [_counted(tested)] if tested else []
    parts += [f"{_counted(untested)}, without a test of the difference"] if untested else []
    return "; ".join(parts)


def _counted(words: Mapping[str, Sequence[str]]) -> str:
    """``better than its untrained twin in 3 of 4 main scores, worse in 1 (box AP on coco)``.

    Args:
        words: word -> titles of the main scores.
    """
    first, *others = (word for word in _PHRASES if word in words)
    total = sum(map(len, words.values()))
    parts = [f"{_PHRASES[first][0]} its untrained twin in {_share(len(words[first]), total)}"]
    for word in others:
        few = f" ({'; '.join(words[word])})" if len(words[word]) <= _MOST_SCORES else ""
        parts.append(f"{_PHRASES[word][1]} in {len(words[word])}{few}")
    return ", ".join(parts)


def _share(count: int, total: int) -> str:
    if count == total:
        return "one main score" if total == 1 else f"all {total} main scores"
    if not count:
        return "no main score"
    return f"{count} of {total} main scores"


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
    tested = f"; tests against every other network confirm {clear[best] or 'none'}" if words else ""
    contested = sum(
        any(cell is not None and cell.best for cell in column)
        for column in zip(*(row.cells for row in networks), strict=True)
    )
    return [f"Of several networks, {best} has the best mean in {_share(count, contested)}{tested}."]


def _against_published(
    summary: Summary, published: Mapping[Column, Sequence[Baseline]]
) -> list[str]:
    """For each of the first trained networks, in how many main scores it passes the published ones."""
    networks = summary.of("network")
    sentences = []
    for row in networks[:_MOST_SENTENCES]:
        places = [
            _place(cell, main, values)
            for cell, main in zip(row.cells, summary.columns, strict=True)
            if cell is not None and (values := published.get(main.column))
        ]
        if places:
            name = "it" if len(networks) == 1 else row.label
            median, best = (sum(column) for column in zip(*places, strict=True))
            sentences.append(
                f"Beside published numbers, {name} is better than their median in "
                f"{_share(median, len(places))}, and better than the best of them in {best or 'none'}."
            )
    return sentences


def _place(cell: Cell, main: MainScore, values: Sequence[Baseline]) -> tuple[bool, bool]:
    """Whether a score is better than the median of published values, and than the best."""
    sign = 1 if main.column.higher_is_better else -1
    ours, theirs = sign * cell.entry.mean, [sign * one.value for one in values]
    return ours > statistics.median(theirs), ours > max(theirs)


def _cautions(summary: Summary, published: Mapping[Column, Sequence[Baseline]]) -> list[str]:
    cells = [cell for row in summary.of("network") for cell in row.cells if cell is not None]
    found = []
    if cells and all(cell.entry.over != "seeds" for cell in cells):
        tested = (
            ", and the tests cover the choice of the test images only"
            if any(cell.word for cell in cells)
            else ""
        )
        found.append(
            f"Every network has one training seed{tested}: another seed may give other results."
        )
    if any(main.column in published for main in summary.columns):
        found.append(
            "Published numbers follow the protocols of their papers; footnotes of the published tables "
            "say what differs."
        )
    return found


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
    found += _of_runs(runs)
    found += list(collection.unread)
    found += [problem for run in evaluations for problem in run.problems]
    waiting = len(collection.unfinished) - len(failed)
    if waiting:
        runs_are = "run is" if waiting == 1 else "runs are"
        found.append(f"{waiting} {runs_are} not finished; only finished runs have scores")
    if summary.of("network") and not summary.of("untrained"):
        found.append("No untrained network was evaluated: the scores have no floor to compare with")
    return [formatting.cut(text) for text in dict.fromkeys(found)]


def _of_runs(runs: Sequence[Run]) -> list[str]:
    """The warnings of runs, each once: ``kNN of NAME and 2 more runs: TEXT``."""
    by_text: dict[str, list[Run]] = {}
    for run in runs:
        for text in dict.fromkeys(run.warnings):
            by_text.setdefault(text, []).append(run)
    return [
        formatting.kind(first.kind)
        + (f" of {first.network['name']}" if first.network else "")
        + (f" and {len(more)} more {'run' if len(more) == 1 else 'runs'}" if more else "")
        + f": {text}"
        for text, (first, *more) in by_text.items()
    ]
