"""Forest plots: a row per estimate, with its interval, on a shared axis around zero.

Each row is HTML text beside a strip of SVG, so that labels wrap and keep their size on narrow pages.
Positions are percentages of the strip's width and height. The style sheet of the page lays out the classes
``forest``, ``estimate`` and ``axis``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from transfer.drawing.svg import GRAY, ticks

_EDGE = 3.0  # percent of the strip left and right of the axis' range
_TICKS = 4


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: the estimate, with low <= high around it; all are finite and in the unit of the axis.
        text: printed at the right, such as ``+2.3 better``.
        group: heading above the first of consecutive rows with the same one; empty for none.
    """

    label: str
    value: float
    low: float
    high: float
    color: str
    text: str = ""
    group: str = ""


def forest(
    rows: Sequence[Interval],
    *,
    x_label: str,
    label: str,  # read aloud by screen readers, before the texts of the rows
    margin: float | None = None,  # a band from -margin to margin is tinted
) -> str:
    """The intervals, one below the other, as one ``<div>`` element; zero is always on the axis."""
    ends = [0.0, *(end for row in rows for end in (row.low, row.high, row.value))]
    ends += [-margin, margin] if margin is not None else []
    axis = _Axis(min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1)
    ground = "" if margin is None else _band(axis.place(-margin), axis.place(margin))
    ground += _line(axis.place(0), axis.place(0), 0, 100, "stroke:currentColor;stroke-width:.8")
    drawn: list[str] = []
    before = ""
    for row in rows:
        if row.group and row.group != before:
            drawn.append(f'<p class="pair">{escape(row.group)}</p>')
        before = row.group
        drawn.append(_row(row.label, ground + _interval(row, axis), row.text))
    drawn.append(_row(x_label, _numbers(axis), "", kind="estimate axis"))
    return f'<div class="forest" role="group" aria-label="{escape(label)}">{"".join(drawn)}</div>'


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def place(self, value: float) -> float:
        """The position of a value in percent of the width."""
        return _EDGE + (100 - 2 * _EDGE) * (value - self.low) / (self.high - self.low)


def _row(label: str, strip: str, text: str, *, kind: str = "estimate") -> str:
    return (
        f'<div class="{kind}"><span>{escape(label)}</span>'
        f'<svg width="100%" aria-hidden="true">{strip}</svg><b>{escape(text)}</b></div>'
    )


def _interval(row: Interval, axis: _Axis) -> str:
    """The interval with its ends, and a square at the estimate."""
    low, high, style = axis.place(row.low), axis.place(row.high), f"stroke:{row.color}"
    return (
        _line(low, high, 50, 50, f"{style};stroke-width:1.5")
        + "".join(_line(end, end, 32, 68, f"{style};stroke-width:1.5") for end in (low, high))
        + f'<rect x="{axis.place(row.value):.2f}%" y="50%" width="8" height="8" '
        f'transform="translate(-4 -4)" style="fill:{row.color}"/>'
    )


def _numbers(axis: _Axis) -> str:
    return "".join(
        _line(x, x, 0, 20, f"stroke:{GRAY};stroke-width:1")
        + f'<text x="{x:.2f}%" y="90%" style="fill:currentColor;font-size:12px;text-anchor:middle">'
        f"{_signed(value)}</text>"
        for value in ticks(axis.low, axis.high, _TICKS)
        for x in [axis.place(value)]
    )


def _signed(value: float) -> str:
    """With a plus sign or a minus sign of the same width."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def _band(x0: float, x1: float) -> str:
    return (
        f'<rect x="{x0:.2f}%" y="0" width="{x1 - x0:.2f}%" height="100%" '
        f'style="fill:{GRAY};fill-opacity:.18"/>'
    )


def _line(x1: float, x2: float, y1: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1:g}%" y2="{y2:g}%" style="{style}"/>'
