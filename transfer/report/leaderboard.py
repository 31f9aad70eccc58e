"""Leaderboards: several trained networks in the order of their scores, one board per protocol.

Networks are ranked only among equals: the same score, images, protocol and transform. A rank is an interval
where the differences do not separate a network from its neighbors.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transfer.report import formatting
from transfer.report.collection import Network
from transfer.report.epoch_curves import earlier_epochs
from transfer.report.score_tables import Column, Entry, Table

Words = Mapping[tuple[str, str, Column, str], str]
"""(ours, theirs, column, variant of the protocol) -> the word of the verdict about ours."""

MOST_BOARDS = 60
MOST_PLACES = 60  # per board
MOST_REFERENCES = 12  # published scores per board, the best ones
_OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Reference:
    """A published score in a board, for orientation: it has no rank."""

    label: str
    value: float


@dataclass(frozen=True)
class References:
    """The published scores beside a board.

    Attributes:
        remark: in what their protocol differs from that of the board, or may differ; may be empty.
    """

    scores: tuple[Reference, ...]
    remark: str


@dataclass(frozen=True)
class Place:
    """A row of a board.

    Attributes:
        entry: the score of a network; None for a published one.
        best, worst: ends of the interval of ranks; 0 for rows that are not ranked.
    """

    label: str
    kind: Literal["network", "untrained", "published"]
    value: float
    entry: Entry | None = None
    best: int = 0
    worst: int = 0

    @property
    def rank(self) -> str:
        """Such as ``2``, ``2–4``, or a dash for a row that is not ranked."""
        if not self.best:
            return "–"
        return f"{self.best}" if self.best == self.worst else f"{self.best}–{self.worst}"


@dataclass(frozen=True)
class Board:
    """The networks that were evaluated by one protocol, best first.

    Attributes:
        data: title of the table of scores.
        note: mark of the footnote on how the protocol differs from the usual one of its column.
        remark: how the ranks came about, and what is missing, as sentences.
    """

    data: str
    column: Column
    variant: str
    protocol: str
    note: str
    places: list[Place]
    remark: str

    @property
    def title(self) -> str:
        """Score, data and digest of the protocol."""
        return f"{self.column.name}, {self.data}, protocol {self.protocol}"


@dataclass(frozen=True)
class Leaderboard:
    """All boards, and the mean ranks.

    Attributes:
        mean_ranks: (network, mean rank by the means), best first; empty if no two boards have all networks.
        shared: number of boards with all networks.
        remark: what the mean ranks are over, as sentences.
        omitted: number of boards that are not shown.
    """

    boards: list[Board]
    mean_ranks: list[tuple[str, float]]
    shared: int
    remark: str
    omitted: int


def leaderboard(
    tables: Sequence[Table],
    networks: Sequence[Network],
    words: Words,
    references: Mapping[tuple[Column, str], References] | None = None,
) -> Leaderboard:
    """A board for each protocol that evaluated two trained networks or more.

    Of checkpoints of one training run, only that of the last epoch takes part. The gate is a check of the
    network, not a protocol, and has no board.

    Args:
        tables: the score tables of the report, which also have the marks of the footnotes.
        words: the verdicts; a pair without one does not separate.
        references: published scores of a column, for each variant of its protocol.
    """
    runs = [run for network in networks for run in network.runs]
    digests = {run.variant: run.digest for run in runs}
    earlier = earlier_epochs(networks)
    of_gates = {Column.of(score) for run in runs if run.gate is not None for score in run.scores}
    boards = []
    for table in tables:
        for k, column in enumerate(table.columns):
            if column in of_gates:
                continue
            found: dict[str, dict[str, tuple[Network, Entry]]] = {}
            for network, cells in table.rows:
                if network.label in earlier:
                    continue
                for variant, entry in cells[k].items():
                    found.setdefault(variant, {})[network.label] = (network, entry)
            for variant, members in found.items():
                if sum(_is_ranked(*member) for member in members.values()) > 1:
                    digest = digests[variant]
                    published = (references or {}).get((column, variant), References((), ""))
                    boards.append(
                        _board(table.title, column, variant, digest, members, words, published)
                    )
    trained = [n.label for n in networks if not n.random and n.label not in earlier]
    ranks, shared = _mean_ranks(boards, trained)
    shown, omitted = formatting.first_items(boards, MOST_BOARDS)
    return Leaderboard(shown, ranks, shared, _overall_remark(boards, ranks, shared), omitted)


def _is_ranked(network: Network, entry: Entry) -> bool:
    return not network.random and math.isfinite(entry.mean)


def _board(
    data: str,
    column: Column,
    variant: str,
    protocol: str,
    members: Mapping[str, tuple[Network, Entry]],
    words: Words,
    published: References,
) -> Board:
    sign = -1 if column.higher_is_better else 1
    ranked = {label: entry for label, (net, entry) in members.items() if _is_ranked(net, entry)}
    known = {
        (a, b): word
        for a, b in itertools.permutations(ranked, 2)
        if (word := word_about(a, b, column, variant, words))
    }
    intervals = _tested(ranked, known) if known else _by_means(ranked, sign)
    places = [
        Place(label, "network", entry.mean, entry, *intervals[label])
        for label, entry in ranked.items()
    ]
    floor = [
        Place(label, "untrained", entry.mean, entry)
        for label, (network, entry) in members.items()
        if network.random and math.isfinite(entry.mean)
    ]
    best = sorted(published.scores, key=lambda one: sign * one.value)[:MOST_REFERENCES]
    places += floor + [Place(one.label, "published", one.value) for one in best]
    places.sort(key=lambda place: sign * place.value)
    shown, more = formatting.first_items(places, MOST_PLACES)
    pairs = len(ranked) * (len(ranked) - 1) // 2
    remark = [_rank_remark(len(known) // 2, pairs)]
    remark += [] if floor else ["No untrained network was evaluated by this protocol."]
    remark += [f"Published scores: {published.remark}."] if best and published.remark else []
    counts = ((more, "rows"), (len(published.scores) - len(best), "published scores"))
    left_out = ", ".join(f"{count} more {what}" for count, what in counts if count)
    remark += [f"Not shown: {left_out}."] if left_out else []
    note = next(iter(ranked.values())).note
    return Board(data, column, variant, protocol, note, shown, " ".join(remark))


def word_about(ours: str, theirs: str, column: Column, variant: str, words: Words) -> str:
    """The verdict about ours, from either order of the pair; empty if the pair was not compared."""
    if word := words.get((ours, theirs, column, variant), ""):
        return word
    word = words.get((theirs, ours, column, variant), "")
    return _OPPOSITE.get(word, word)


def _tested(
    ranked: Mapping[str, Entry], known: Mapping[tuple[str, str], str]
) -> dict[str, tuple[int, int]]:
    """From 1 + the number of better networks to the number of networks that are not worse."""
    return {
        ours: (
            1 + sum(known.get((ours, theirs)) == "worse" for theirs in ranked),
            len(ranked) - sum(known.get((ours, theirs)) == "better" for theirs in ranked),
        )
        for ours in ranked
    }


def _by_means(ranked: Mapping[str, Entry], sign: int) -> dict[str, tuple[int, int]]:
    """Ranks by the means; equal means share an interval."""
    values = [sign * entry.mean for entry in ranked.values()]
    return {
        label: (
            1 + sum(value < sign * entry.mean for value in values),
            sum(value <= sign * entry.mean for value in values),
        )
        for label, entry in ranked.items()
    }


def _rank_remark(compared: int, pairs: int) -> str:
    if not compared:
        return "Ranks are by the means: no pair of these networks was tested for a difference."
    text = "Networks whose difference is neither “better” nor “worse” share ranks."
    missing = pairs - compared
    return (
        f"{text} {missing} of {pairs} pairs were not tested and share ranks." if missing else text
    )


# ---- Mean ranks


def _mean_ranks(
    boards: Sequence[Board], trained: Sequence[str]
) -> tuple[list[tuple[str, float]], int]:
    """Mean over the boards with all trained networks of the rank by the mean; ties share the mean rank."""
    ranks: dict[str, list[float]] = {label: [] for label in trained}
    shared = 0
    for board in boards:
        entries = {p.label: p.entry for p in board.places if p.kind == "network" and p.entry}
        if set(entries) == set(trained):
            shared += 1
            intervals = _by_means(entries, -1 if board.column.higher_is_better else 1)
            for label, (best, worst) in intervals.items():
                ranks[label].append((best + worst) / 2)
    if shared < 2 or len(trained) < 2:
        return [], shared
    means = [(label, sum(of) / len(of)) for label, of in ranks.items()]
    return sorted(means, key=lambda pair: pair[1]), shared


def _overall_remark(
    boards: Sequence[Board], ranks: Sequence[tuple[str, float]], shared: int
) -> str:
    if ranks:
        return (
            f"Mean of the ranks by the means over the {shared} of {len(boards)} boards that have every "
            "trained network. All boards count alike, also AP and AP50 of one protocol."
        )
    if len(boards) > 1:
        return (
            f"No mean rank: {shared} of {len(boards)} boards have every trained network, expected at least "
            "2."
        )
    return ""
