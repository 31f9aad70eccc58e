"""A table of a paper with a user's own rows, as plain data for any renderer, and as text for a terminal."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from transfer.scoring.scores import Score

SOURCE = "MSBReg, arXiv 2207.03552"
EMPTY = "–"


@dataclass(frozen=True)
class OurScore:
    """A score of a user's network.

    Attributes:
        score: its value is the one to show, such as a mean over seeds.
        spread: half-width to show after ±; None shows none.
        scope: what the spread is computed over, as printed: ``(3 seeds)``.
        settings: of the run, from ``task_matching.settings_of``; None if unknown.
    """

    score: Score
    spread: float | None = None
    scope: str = ""
    settings: Mapping[str, Any] | None = None

    def text(self, decimals: int) -> str:
        """The value with its spread and scope."""
        return value_text(self.score.value, self.spread, self.scope, decimals)


@dataclass(frozen=True)
class OurRow:
    """A user's network: one row of the tables.

    Attributes:
        label: its name.
        arch: architecture as in records, such as ``resnet50``.
        scores: its scores; those that answer no column of a table are ignored.
        epochs, batch_size: of pre-training; None if unknown, 0 epochs if untrained.
    """

    label: str
    arch: str
    scores: tuple[OurScore, ...]
    epochs: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Cell:
    """A cell with the marks of its footnotes.

    Attributes:
        text: as printed by the source; ``EMPTY`` if there is no value.
        value: the number; None for other texts.
    """

    text: str
    marks: tuple[str, ...] = ()
    value: float | None = None


@dataclass(frozen=True)
class Heading:
    """The heading of a column.

    Attributes:
        text: its own heading.
        group: heading above it, which it shares with its neighbors; may be empty.
        numeric: whether the column contains scores.
        higher_is_better: the direction of the scores.
        ours: whether the whole column is the user's.
    """

    text: str
    group: str = ""
    marks: tuple[str, ...] = ()
    numeric: bool = False
    higher_is_better: bool = True
    ours: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row with one cell per column; ``ours`` marks the user's."""

    cells: tuple[Cell, ...]
    ours: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: its number in the paper.
        title: what it compares, in short.
        source: the paper.
        footnotes: mark and text, in the order of their marks.
    """

    number: str
    title: str
    source: str
    columns: tuple[Heading, ...]
    rows: tuple[TableRow, ...]
    footnotes: tuple[tuple[str, str], ...]

    @property
    def has_ours(self) -> bool:
        """Whether the table has at least one value of the user's."""
        columns = [heading.ours for heading in self.columns]
        return any(
            cell.value is not None
            for row in self.rows
            for cell, ours in zip(row.cells, columns, strict=True)
            if row.ours or ours
        )


@dataclass
class Marks:
    """Assigns marks to the footnotes of one table, in reading order; equal texts share a mark."""

    texts: dict[str, str] = field(default_factory=dict)

    def of(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The marks of some texts, in order, without empty texts: a, b, ..., z, aa, bb, ...

        >>> marks = Marks()
        >>> marks.of(["first", "", "second"]), marks.of(["second"])
        (('a', 'b'), ('b',))
        """
        found = []
        for text in filter(None, texts):
            rounds, letter = divmod(len(self.texts), len(ascii_lowercase))
            found.append(self.texts.setdefault(text, ascii_lowercase[letter] * (rounds + 1)))
        return tuple(dict.fromkeys(found))

    @property
    def footnotes(self) -> tuple[tuple[str, str], ...]:
        """(mark, text) of every footnote."""
        return tuple((mark, text) for text, mark in self.texts.items())


def value_text(value: float, spread: float | None, scope: str, decimals: int) -> str:
    """A value with its spread and scope.

    >>> value_text(70.12, 0.3, "(3 seeds)", 1)
    '70.1 ± 0.3 (3 seeds)'
    """
    parts = [f"{value:.{decimals}f}"]
    parts += [] if spread is None else [f"± {spread:.{decimals}f}"]
    return " ".join([*parts, scope] if scope else parts)


def as_text(table: PaperTable) -> list[str]:
    """The table as aligned lines for a terminal; ``>`` precedes the user's rows.

    >>> heads = (Heading("Method"), Heading("Top-1", group="ImageNet", numeric=True))
    >>> rows = (TableRow((Cell("BYOL", ("a",)), Cell("66.5", (), 66.5))),
    ...         TableRow((Cell("mine"), Cell("67.1 ± 0.2", (), 67.1)), ours=True))
    >>> table = PaperTable("2", "Linear", "the paper", heads, rows, (("a", "Copied from elsewhere"),))
    >>> print("\\n".join(as_text(table)))
    Table 2 of the paper: Linear
    <BLANKLINE>
                ImageNet
      Method    Top-1
      --------  ----------
      BYOL [a]  66.5
    > mine      67.1 ± 0.2
    <BLANKLINE>
    [a] Copied from elsewhere
    """
    groups = [heading.group for heading in table.columns]
    shown = ["" if i and groups[i - 1] == group else group for i, group in enumerate(groups)]
    body = [[_marked(cell.text, cell.marks) for cell in row.cells] for row in table.rows]
    heads = [_marked(heading.text, heading.marks) for heading in table.columns]
    widths = [max(map(len, column)) for column in zip(shown, heads, *body, strict=True)]
    lines = [f"Table {table.number} of {table.source}: {table.title}", ""]
    if any(groups):
        lines.append(_line("  ", shown, widths))
    lines += [_line("  ", heads, widths), _line("  ", ["-" * width for width in widths], widths)]
    lines += [
        _line("> " if row.ours else "  ", texts, widths)
        for row, texts in zip(table.rows, body, strict=True)
    ]
    if table.footnotes:
        lines += ["", *footnote_lines(table.footnotes)]
    return lines


def footnote_lines(footnotes: Iterable[tuple[str, str]], indent: str = "") -> list[str]:
    """Footnotes as lines of at most 100 characters."""
    return [
        line
        for mark, text in footnotes
        for line in textwrap.wrap(
            f"[{mark}] {text}",
            width=100,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _marked(text: str, marks: Sequence[str]) -> str:
    return f"{text} [{','.join(marks)}]" if marks else text


def _line(start: str, texts: Sequence[str], widths: Sequence[int]) -> str:
    padded = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
    return (start + "  ".join(padded)).rstrip()
