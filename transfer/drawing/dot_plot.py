"""Dot plots as SVG that keeps its text size at any width: each row is one axis with marks.

Horizontal positions are percentages of the drawing's width, so the page can be narrow or wide. Colors come
from the page: ``--page`` fills the marks, text has the page's own color.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from transfer.drawing.svg import GRAY, ticks

# Pixels from the top of a row: baselines of its title, of three lines of names, the axis, the baseline of
# the axis' numbers, the next row. Rows without names are shorter.
_TITLE, _NAMES, _AXIS, _NUMBERS, _NEXT = 14, (33, 47, 61), 78, 97, 112
_SHORTER = 46
_EDGE = 3.0  # percent of the width left and right of the axis


@dataclass(frozen=True)
class Dot:
    """A value on an axis.

    Attributes:
        mark: one character drawn in a circle; empty for a tick.
        label: what it is, shown when pointed at.
        spread: half the length of a bar through the mark, in the same unit; None draws no bar.
        named: whether the label is written above the axis.
        dashed: whether the circle is dashed.
        outside: whether the axis need not reach it: it is then drawn at the end of the axis, with its value.
    """

    value: float
    label: str
    mark: str = ""
    color: str = GRAY
    spread: float | None = None
    named: bool = False
    dashed: bool = False
    outside: bool = False


@dataclass(frozen=True)
class DotRow:
    """One axis.

    Attributes:
        note: shown after the title in regular type.
        dots: the last is on top; values are finite.
        least: smallest range of the axis, so that small differences look small.
    """

    title: str
    note: str
    dots: Sequence[Dot]
    least: float = 0.0


def dot_plot(
    rows: Sequence[DotRow],
    *,
    label: str,  # read aloud by screen readers
) -> str:
    """The rows as one ``<svg>`` element without ids, scripts or links."""
    drawn, top = [], 0
    for row in rows:
        shift = 0 if any(dot.named for dot in row.dots) else _SHORTER
        drawn.append(_row(row, top, top + _AXIS - shift))
        top += _NEXT - shift
    return (
        f'<svg width="100%" height="{top}" role="img" '
        f'aria-label="{escape(label)}">{"".join(drawn)}</svg>'
    )


def _row(row: DotRow, top: int, axis: int) -> str:
    """A row from its top with its axis at these heights."""
    low, high = _limits(row)

    def place(value: float) -> float:
        return _EDGE + (100 - 2 * _EDGE) * (value - low) / (high - low)

    out = [
        f'<text x="0" y="{top + _TITLE}" style="fill:currentColor;font-size:13px">'
        f'<tspan style="font-weight:600">{escape(row.title)}</tspan> {escape(row.note)}</text>',
        f'<line x1="0" x2="100%" y1="{axis}" y2="{axis}" style="stroke:{GRAY};stroke-width:1"/>',
    ]
    for value in ticks(low, high, 4):
        x = place(value)
        out.append(_stroke(x, axis, axis + 5, 1))
        out.append(_text(x, axis + _NUMBERS - _AXIS, f"{value:.4g}", "middle", 12))
    names = [dot for dot in row.dots if dot.named]
    labels = []  # on top of the lines to the others
    for dot in row.dots:
        x = place(min(max(dot.value, low), high))
        if x != place(dot.value):
            side, shift = ("start", 13) if dot.value < low else ("end", -13)
            arrow = "←" if dot.value < low else "→"
            text = _text(x, axis + 4, f"{arrow} {dot.value:.1f}", side, 12)
            out.append(text.replace("<text ", f'<text dx="{shift}" dy="-12" ', 1))
        title = f"<title>{escape(dot.label)}: {dot.value:.1f}</title>"
        if dot.spread is not None and x == place(dot.value):
            ends = place(dot.value - dot.spread), place(dot.value + dot.spread)
            out.append(
                f'<line x1="{ends[0]:.2f}%" x2="{ends[1]:.2f}%" y1="{axis}" y2="{axis}" '
                f'style="stroke:{dot.color};stroke-width:5;stroke-opacity:.55"/>'
            )
        if dot.mark:
            dash = ";stroke-dasharray:3 2" if dot.dashed else ""
            out.append(
                f'<g><circle cx="{x:.2f}%" cy="{axis}" r="8" style="fill:var(--page);'
                f'stroke:{dot.color};stroke-width:2.5{dash}"/>'
                f"{_text(x, axis + 4, dot.mark, 'middle', 11)}{title}</g>"
            )
        else:
            out.append(f"<g>{_stroke(x, axis - 6, axis + 6, 2)}{title}</g>")
        if dot.named:
            y = top + _NAMES[names.index(dot) % len(_NAMES)]
            out.append(_stroke(x, y + 3, axis - 6, 0.7))
            side = "start" if x < 50 else "end"
            labels.append(_text(x, y, f"{dot.label} {dot.value:.1f}", side, 12, halo=True))
    return "".join([*out, *labels])


def _limits(row: DotRow) -> tuple[float, float]:
    """The range of the dots and their bars, with some room on both sides."""
    inside = [dot for dot in row.dots if not dot.outside] or row.dots
    low = min(dot.value - (dot.spread or 0.0) for dot in inside)
    high = max(dot.value + (dot.spread or 0.0) for dot in inside)
    room = max(0.05 * (high - low), (row.least - (high - low)) / 2) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _stroke(x: float, y1: float, y2: float, width: float) -> str:
    return (
        f'<line x1="{x:.2f}%" x2="{x:.2f}%" y1="{y1}" y2="{y2}" '
        f'style="stroke:{GRAY};stroke-width:{width}"/>'
    )


def _text(x: float, y: float, text: str, side: str, size: int, *, halo: bool = False) -> str:
    around = ";stroke:var(--page);stroke-width:3px;paint-order:stroke" if halo else ""
    return (
        f'<text x="{x:.2f}%" y="{y}" style="fill:currentColor;font-size:{size}px{around};'
        f'text-anchor:{side}">{escape(text)}</text>'
    )
