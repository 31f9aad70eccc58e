"""Verdicts: is a network better than another, or than its untrained twin, beyond the variation of the images?

Two networks are compared only by the same score, rules, images, protocol and transform; other pairs are
listed with what differs. All comparisons of a report are corrected together.
"""

import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from msbreg.run.config import differences
from msbreg.run.errors import UserError
from transfer.drawing.intervals import Interval, forest
from transfer.drawing.svg import BLUE, GRAY, GREEN, ORANGE
from transfer.report import formatting
from transfer.report.collection import Network
from transfer.report.epoch_curves import earlier_epochs
from transfer.report.exports.score_rows import ScoreRow, score_rows
from transfer.report.leaderboard import Words
from transfer.report.score_tables import Column, Entry, Table, data_name
from transfer.report.verdict_memory import Memory, Missing
from transfer.scoring.scores import DataId
from transfer.verdicts.comparison import MARGIN, Comparison, Verdict, judge

_COLORS = {"better": GREEN, "worse": ORANGE, "same": BLUE, "unclear": GRAY}


@dataclass(frozen=True)
class Limits:
    """Maximum sizes of the section; bootstraps that are not in the memory stop after the time."""

    trained_pairs: int = 45  # all pairs of 10 networks
    comparisons: int = 2000
    reasons: int = 40  # rows of pairs that cannot be compared
    rows: int = 60  # per table and figure
    seconds: float = 30.0


@dataclass(frozen=True)
class VerdictRow:
    """Ours minus theirs in one score.

    Attributes:
        against_twin: whether theirs is the untrained twin of ours.
        variant: of the protocol, transform and images of both.
        protocol: its digest.
        floor: the untrained twin's entry by the same protocol, if it was evaluated.
        note: mark of the footnote on how the protocol differs from the usual one of its column.
    """

    ours: str
    theirs: str
    against_twin: bool
    column: Column
    variant: str
    protocol: str
    verdict: Verdict
    our_entry: Entry
    their_entry: Entry
    floor: Entry | None
    note: str = ""


@dataclass(frozen=True)
class NotComparable:
    """A pair with a score of one name on data of one name that cannot be compared, and why."""

    ours: str
    theirs: str
    score: str
    data: str
    reason: str


@dataclass(frozen=True)
class VerdictTable:
    """The verdicts on one data set, against twins first; the figure has the first ``shown`` rows."""

    title: str
    rows: list[VerdictRow]
    shown: int
    figure: Markup

    @property
    def more(self) -> int:
        """Number of rows that are not in the figure."""
        return len(self.rows) - self.shown


@dataclass(frozen=True)
class VerdictSection:
    """All verdicts of a report.

    Attributes:
        count: number of comparisons whose p values are corrected together (Holm).
        left_out: what was not compared and why, as sentences; may be empty.
        words: for ``leaderboard``.
    """

    tables: list[VerdictTable]
    not_comparable: list[NotComparable]
    count: int
    margin: float
    left_out: str
    words: Words


@dataclass(frozen=True)
class _Pair:
    """A score of two networks by the same protocol."""

    ours: ScoreRow
    theirs: ScoreRow
    floor: Entry | None

    @property
    def names(self) -> tuple[str, str]:
        return self.ours.network.label, self.theirs.network.label


def verdict_section(
    networks: Sequence[Network],
    memory: Memory,
    limits: Limits = Limits(),
    *,
    tables: Sequence[Table] = (),
) -> VerdictSection:
    """Compare each trained network with its untrained twins, and with the other trained networks.

    Of checkpoints of one training run, only that of the last epoch is compared with other networks.

    Args:
        memory: comparisons of earlier reports, which are not computed again; new ones are added.
        tables: the score tables of the report, which have the marks of the footnotes.
    """
    marks = _marks(tables)
    pairs, reasons, more_pairs = _pairs(networks, limits)
    compared: list[tuple[_Pair, Comparison]] = []
    counts = Counter({"pairs of trained networks": more_pairs})
    end = time.monotonic() + limits.seconds
    for pair in pairs[: limits.comparisons]:
        found = memory.compare(pair.ours, pair.theirs, compute=time.monotonic() < end)
        if isinstance(found, Comparison):
            compared.append((pair, found))
        elif isinstance(found, Missing):
            counts[found.name] += 1
        else:
            reasons.append(_reason(pair.ours, pair.theirs, found))
    counts["comparisons"] = max(0, len(pairs) - limits.comparisons)
    verdicts = judge([comparison for _, comparison in compared])
    rows = [
        _row(pair, verdict, marks) for (pair, _), verdict in zip(compared, verdicts, strict=True)
    ]
    shown, more = formatting.first_items(reasons, limits.reasons)
    counts["reasons"] = more
    return VerdictSection(
        tables=_tables(rows, limits),
        not_comparable=shown,
        count=len(rows),
        margin=MARGIN,
        left_out=_left_out(counts, limits),
        words={(r.ours, r.theirs, r.column, r.variant): r.verdict.word for r in rows},
    )


# ---- Pairs


def _pairs(
    networks: Sequence[Network], limits: Limits
) -> tuple[list[_Pair], list[NotComparable], int]:
    """Pairs by the same protocol, those that cannot be compared, and the number of omitted pairs.

    Trained networks are compared with each other at the last epoch of a training run only.
    """
    trained = [network for network in networks if not network.random]
    twins = {
        network.label: [n for n in networks if n.random and n.arch == network.arch]
        for network in trained
    }
    of_network: dict[str, list[ScoreRow]] = {}
    for row in score_rows(networks):
        if row.found[0][0].gate is None:  # a check of the network, not a protocol
            of_network.setdefault(row.network.label, []).append(row)
    wanted = [(network, twin) for network in trained for twin in twins[network.label]]
    earlier = earlier_epochs(trained)
    latest = [network for network in trained if network.label not in earlier]
    # In an order in which the first n (n - 1) / 2 pairs are all pairs of the first n networks.
    numbers = sorted(itertools.combinations(range(len(latest)), 2), key=lambda pair: pair[::-1])
    both, more = formatting.first_items(
        [(latest[ours], latest[theirs]) for ours, theirs in numbers], limits.trained_pairs
    )
    pairs: list[_Pair] = []
    reasons: list[NotComparable] = []
    for ours, theirs in [*wanted, *both]:
        below = [row for twin in twins[ours.label] for row in of_network.get(twin.label, ())]
        others = of_network.get(theirs.label, ())
        for row in of_network.get(ours.label, ()):
            if same := next((o for o in others if _key(o) == _key(row)), None):
                floor = next((b.entry for b in below if _key(b) == _key(row)), None)
                pairs.append(_Pair(row, same, floor))
            elif like := next((o for o in others if _is_like(o, row)), None):
                reasons.append(_reason(row, like, _what_differs(row, like)))
    return pairs, reasons, more


def _key(row: ScoreRow) -> tuple[Column, str]:
    return row.column, row.variant


def _is_like(a: ScoreRow, b: ScoreRow) -> bool:
    """Whether a reader might compare the two."""
    return a.column.name == b.column.name and data_name(a.column.data) == data_name(b.column.data)


def _reason(ours: ScoreRow, theirs: ScoreRow, text: str) -> NotComparable:
    column = ours.column
    return NotComparable(
        ours.network.label, theirs.network.label, column.name, data_name(column.data), text
    )


def _what_differs(ours: ScoreRow, theirs: ScoreRow) -> str:
    parts = []
    if ours.column.data.fingerprint != theirs.column.data.fingerprint:
        parts.append("different test images")
    if ours.column.rules != theirs.column.rules or ours.column.unit != theirs.column.unit:
        parts.append(f"different rules: {ours.column.rules} / {theirs.column.rules}")
    if ours.digest != theirs.digest:
        names = _differing_settings(ours, theirs)
        parts.append(f"protocol {ours.digest} / {theirs.digest}" + (f" ({names})" if names else ""))
    for what, a, b in (
        ("transform", ours.transform, theirs.transform),
        ("images", ours.fingerprints, theirs.fingerprints),
    ):
        changed = sorted(k for k in {**a, **b} if a.get(k) != b.get(k))
        if changed:
            parts.append(f"different {what}: {', '.join(changed[:6])}")
    return formatting.cut("; ".join(parts))


def _differing_settings(ours: ScoreRow, theirs: ScoreRow) -> str:
    """Names of the settings that differ; empty if a record was changed after it was read."""
    try:
        a, b = ours.found[0][0].protocol(), theirs.found[0][0].protocol()
    except UserError:
        return ""
    return ", ".join(sorted({*differences(a, b), *differences(b, a)})[:6])


# ---- Rows and figures


def _marks(tables: Sequence[Table]) -> dict[tuple[Column, str], str]:
    """Column and variant of the protocol -> mark of its footnote."""
    return {
        (column, variant): entry.note
        for table in tables
        for _, cells in table.rows
        for column, cell in zip(table.columns, cells, strict=True)
        for variant, entry in cell.items()
    }


def _row(pair: _Pair, verdict: Verdict, marks: Mapping[tuple[Column, str], str]) -> VerdictRow:
    ours, theirs = pair.names
    return VerdictRow(
        ours=ours,
        theirs=theirs,
        against_twin=pair.theirs.network.random,
        column=pair.ours.column,
        variant=pair.ours.variant,
        protocol=pair.ours.digest,
        verdict=verdict,
        our_entry=pair.ours.entry,
        their_entry=pair.theirs.entry,
        floor=pair.floor,
        note=marks.get(_key(pair.ours), ""),
    )


def _tables(rows: Sequence[VerdictRow], limits: Limits) -> list[VerdictTable]:
    by_data: dict[DataId, list[VerdictRow]] = {}
    for row in rows:
        by_data.setdefault(row.column.data, []).append(row)
    names = Counter(data_name(data) for data in by_data)
    tables = []
    for data, members in by_data.items():
        title = data_name(data)
        if names[title] > 1:
            title += f" (data {data.fingerprint[:8] or 'unknown'})"
        members.sort(key=lambda row: not row.against_twin)  # rows of a pair remain together
        shown = members[: limits.rows]
        tables.append(VerdictTable(title, members, len(shown), _figure(shown, title)))
    return tables


def _figure(rows: Sequence[VerdictRow], title: str) -> Markup:
    """One forest plot for each unit, one below the other."""
    figures = []
    for unit in dict.fromkeys(row.column.unit for row in rows):
        intervals = [
            Interval(
                label=row.column.name
                + ("" if row.column.higher_is_better else " (lower is better)"),
                value=row.verdict.difference,
                low=row.verdict.low,
                high=row.verdict.high,
                color=_COLORS[row.verdict.word],
                text=f"{formatting.points(row.verdict.difference)} {row.verdict.word}",
                group=f"{row.ours} minus {row.theirs}",
            )
            for row in rows
            if row.column.unit == unit and _is_finite(row.verdict)
        ]
        if intervals:
            label = f"Differences on {title}"
            x_label = f"difference [{unit}] with its 95 % interval"
            figures.append(forest(intervals, x_label=x_label, label=label, margin=MARGIN))
    return Markup("".join(figures))


def _is_finite(verdict: Verdict) -> bool:
    return all(map(math.isfinite, (verdict.difference, verdict.low, verdict.high)))


def _left_out(counts: Counter[str], limits: Limits) -> str:
    parts = [
        f"{counts[what]} {text}"
        for what, text in (
            ("pairs of trained networks", "more pairs of trained networks"),
            ("comparisons", f"comparisons beyond the first {limits.comparisons}"),
            ("OUTCOMES", "comparisons of runs that did not save outcomes.npz"),
            (
                "TIME",
                f"comparisons that did not fit into {limits.seconds:g} seconds (write the report again "
                "to continue)",
            ),
            ("reasons", "more pairs that cannot be compared"),
        )
        if counts[what]
    ]
    return f"Not compared: {'; '.join(parts)}." if parts else ""
