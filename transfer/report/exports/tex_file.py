r"""report.tex: the tables of the report for papers, a document that pdflatex compiles with booktabs.

Each table is a ``table`` environment that can be copied; its notes stand below the tabular.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.published import PaperTable
from transfer.report import formatting
from transfer.report.exports.tex_text import tex
from transfer.report.leaderboard import Board, Leaderboard
from transfer.report.score_tables import Column, Difference, Entry, Table
from transfer.report.verdict_section import VerdictSection, VerdictTable

COLUMNS = 4  # of scores side by side
ROWS = 45  # in one table
_NAME = r"p{.25\linewidth}"
_SPREAD = (
    "$\\pm$ with seeds: sample standard deviation over networks that differ only in their seed; with "
    "evaluations: over evaluations of one network; with test: standard error over the test images."
)
_HEAD = r"""% Tables of a report of msbreg. Needs only booktabs; copy any table environment.
\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\setlength{\tabcolsep}{4pt}
\begin{document}
"""
_FLOATS = 4  # before a page break: LaTeX holds 18 tables at most


@dataclass(frozen=True)
class TexTable:
    """A table whose texts are LaTeX already.

    Attributes:
        groups: rows of cells; a rule separates the groups.
        notes: paragraphs below the table.
        over: lines above the head, such as headings of several columns.
    """

    caption: str
    columns: str
    head: Sequence[str]
    groups: Sequence[Sequence[Sequence[str]]]
    notes: Sequence[str]
    over: str = ""


def as_tex(content: dict[str, Any]) -> bytes:
    """The tables as one LaTeX document: scores by data set, verdicts, leaderboards, the paper's tables.

    Args:
        content: of a report; its tables, notes, verdicts, leaderboard and paper tables are used.
    """
    tables = [
        *(part for table in content["tables"] for part in _score_tables(table, content["notes"])),
        *(
            part
            for table in content["verdicts"].tables
            for part in _verdict_tables(table, content["verdicts"], content["notes"])
        ),
        *(_board_table(board, content["notes"]) for board in content["leaderboard"].boards),
        *_mean_ranks(content["leaderboard"]),
        *(part for table in content["paper_tables"] for part in _paper_tables(table)),
    ]
    parts = [_HEAD]
    for number, table in enumerate(tables, 1):
        parts.append(_environment(table, f"tab:report-{number}"))
        parts += ["\\clearpage\n"] * (number % _FLOATS == 0)
    parts += ["No finished evaluation was found.\n"] * (not tables)
    return "\n".join([*parts, "\\end{document}\n"]).encode("ascii")


_LONG = 14  # characters of a heading that is broken into lines


def _environment(table: TexTable, label: str) -> str:
    groups = ["\n".join(map(_line, rows)) for rows in table.groups if rows]
    body = "\n\\midrule\n".join(groups)
    notes = "\\par\n".join(table.notes)
    return rf"""\begin{{table}}[htbp]
\centering
\caption{{{table.caption}}}
\label{{{label}}}
\small
\begin{{tabular}}{{{table.columns}}}
\toprule
{table.over}{_line(table.head)}
\midrule
{body}
\bottomrule
\end{{tabular}}
\par\smallskip
\begin{{minipage}}{{\linewidth}}\footnotesize\raggedright
{notes}
\end{{minipage}}
\end{{table}}
"""


def _line(cells: Sequence[str]) -> str:
    r"""A row; a first cell that starts like an option of the \\ before it is protected."""
    text = " & ".join(cells)
    return ("{}" if text.startswith(("[", "*")) else "") + text + r" \\"


def _mark(mark: str) -> str:
    return rf"\textsuperscript{{{mark}}}" if mark else ""


def _parts(count: int, most: int) -> list[slice]:
    """Slices of at most ``most`` items each, at least one."""
    return [slice(start, start + most) for start in range(0, max(count, 1), most)]


# ---- Scores


def _score_tables(table: Table, notes: Mapping[str, str]) -> list[TexTable]:
    """One table, or several if it has too many columns or rows for a page."""
    return [
        _score_table(table, across, down, notes)
        for across, down in itertools.product(
            _parts(len(table.columns), COLUMNS), _parts(len(table.rows), ROWS)
        )
    ]


def _score_table(table: Table, across: slice, down: slice, notes: Mapping[str, str]) -> TexTable:
    columns = table.columns[across]
    rows = [(network.label, cells[across]) for network, cells in table.rows[down]]
    marks = [e.note for _, cells in rows for cell in cells for e in cell.values() if e.note]
    labels = {label for label, _ in rows}
    differences = [row for row in table.differences if row.network in labels]
    rules = list(dict.fromkeys(column.rules for column in columns))
    head = ["Network", *(_heading(c, rules.index(c.rules) + 1) for c in columns)]
    below = [f"{_mark(str(k))}\\,{tex(text)}." for k, text in enumerate(rules, 1)]
    below += _protocol_notes(marks, notes)
    below += [tex(text) for text in (table.incomplete, table.left_out) if text]
    part = "" if across.start == down.start == 0 else ", continued"
    return TexTable(
        caption=f"Scores on {tex(table.title)}{part}.",
        columns=_NAME + "r" * len(columns),
        head=head,
        groups=[
            [[tex(label), *map(_cell, cells)] for label, cells in rows],
            [_difference_row(row, across) for row in differences],
        ],
        notes=[*below, _SPREAD],
    )


def _heading(column: Column, rule: int) -> str:
    arrow = "" if column.higher_is_better else r" $\downarrow$"
    text = f"{tex(column.name)} [{tex(column.unit)}]{arrow}{_mark(str(rule))}"
    return rf"\parbox[b]{{2.7cm}}{{\raggedleft {text}}}" if len(column.name) > _LONG else text


def _cell(cell: Mapping[str, Entry]) -> str:
    return " / ".join(f"{tex(e)}{_mark(e.note)}" for e in cell.values()) or "--"


def _difference_row(row: Difference, across: slice) -> list[str]:
    cells = [
        tex(cell or "–")
        if isinstance(cell, str)
        else f"${cell[0]:+.1f}$" + (rf" $\pm$ {cell[1]:.1f}" if cell[1] is not None else "")
        for cell in row.cells[across]
    ]
    return [f"{tex(row.network)} minus {tex(row.twin)}", *cells]


def _protocol_notes(marks: Iterable[str], notes: Mapping[str, str]) -> list[str]:
    return [
        f"{_mark(mark)}\\,{tex(notes[mark])}. Not directly comparable with the rest of its column."
        for mark in dict.fromkeys(marks)
        if mark
    ]


# ---- Verdicts


def _verdict_tables(
    table: VerdictTable, section: VerdictSection, notes: Mapping[str, str]
) -> list[TexTable]:
    parts = _parts(len(table.rows), ROWS // 2)
    return [_verdict_table(table, part, section, notes) for part in parts]


def _verdict_table(
    table: VerdictTable, part: slice, section: VerdictSection, notes: Mapping[str, str]
) -> TexTable:
    rows = []
    for row in table.rows[part]:
        verdict = row.verdict
        interval = f"$[{verdict.low:+.1f}, {verdict.high:+.1f}]$"
        rows.append(
            [
                f"{tex(row.ours)} minus {tex(row.theirs)}",
                f"{tex(row.column.name)} [{tex(row.column.unit)}]{_mark(row.note)}",
                f"${verdict.difference:+.1f}$",
                interval,
                _p(verdict.p_adjusted),
                verdict.word,
                f"{row.floor.mean:.1f}" if row.floor else "--",
                str(verdict.units),
                f"{verdict.seeds[0]}/{verdict.seeds[1]}",
            ]
        )
    below = [
        f"Difference with its 95 \\% interval; $p$ corrected by Holm's method for {section.count} "
        f"comparisons; same: the interval lies within $\\pm${section.margin:g}. Floor: score of the "
        "untrained network.",
        *_protocol_notes([row.note for row in table.rows[part]], notes),
        tex(section.left_out),
    ]
    return TexTable(
        caption=f"Differences on {tex(table.title)}{', continued' if part.start else ''}.",
        columns=r"p{.27\linewidth}p{.15\linewidth}rrrlrrr",
        head=["Networks", "Score", "Diff.", "95 \\%", "$p$", "Verdict", "Floor", "Images", "Seeds"],
        groups=[rows],
        notes=[text for text in below if text],
    )


def _p(value: float) -> str:
    if math.isnan(value):
        return "--"
    return "$<0.001$" if value < 0.001 else f"{value:.3f}"


# ---- Leaderboards


def _board_table(board: Board, notes: Mapping[str, str]) -> TexTable:
    rows = [
        [
            tex(place.rank if place.kind == "network" else place.kind),
            tex(place.label),
            tex(place.entry) if place.entry else f"{place.value:.1f}",
        ]
        for place in board.places[:ROWS]
    ]
    more = len(board.places) - ROWS
    return TexTable(
        caption=f"Leaderboard: {tex(board.title)}.",
        columns=r"lp{.5\linewidth}r",
        head=["Rank", "Network", _heading(board.column, 1)],
        groups=[rows],
        notes=[
            f"{_mark('1')}\\,{tex(board.column.rules)}. {tex(board.remark)}",
            *_protocol_notes([board.note], notes),
            *([f"Not shown: {more} more rows."] if more > 0 else []),
        ],
    )


def _mean_ranks(board: Leaderboard) -> list[TexTable]:
    if not board.mean_ranks:
        return []
    shown, more = formatting.first_items(board.mean_ranks, ROWS)
    rows = [[tex(label), f"{rank:.2f}"] for label, rank in shown]
    notes = [tex(board.remark), *([f"Not shown: {more} more networks."] if more else [])]
    head = ["Network", "Mean rank"]
    return [TexTable("Mean ranks.", r"p{.5\linewidth}r", head, [rows], notes)]


# ---- The paper's tables


def _paper_tables(table: PaperTable) -> list[TexTable]:
    """A table of the paper, in parts of at most ``ROWS`` rows; the user's rows are bold."""
    heads = [tex(heading.text) for heading in table.columns]
    marks = [_mark(",".join(heading.marks)) for heading in table.columns]
    spec = "".join("r" if heading.numeric else "l" for heading in table.columns)
    parts = []
    for part in _parts(len(table.rows), ROWS):
        rows = [
            [
                _bold(tex(cell.text), row.ours or heading.ours) + _mark(",".join(cell.marks))
                for cell, heading in zip(row.cells, table.columns, strict=True)
            ]
            for row in table.rows[part]
        ]
        continued = ", continued" if part.start else ""
        parts.append(
            TexTable(
                caption=f"Table {tex(table.number)} of {tex(table.source)}: {tex(table.title)}{continued}.",
                columns=spec,
                head=[head + mark for head, mark in zip(heads, marks, strict=True)],
                groups=[rows],
                notes=[f"{_mark(mark)}\\,{tex(text)}." for mark, text in table.footnotes],
                over=_groups(table),
            )
        )
    return parts


def _groups(table: PaperTable) -> str:
    """A row with the headings that neighboring columns share, and rules below them; may be empty."""
    cells, rules, start = [], [], 1
    for group, members in itertools.groupby(heading.group for heading in table.columns):
        count = len(list(members))
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{tex(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + count - 1}}}"] if group else []
        start += count
    return f"{_line(cells)}\n{' '.join(rules)}\n" if rules else ""


def _bold(text: str, ours: bool) -> str:
    return rf"\textbf{{{text}}}" if ours else text
