"""Forest plots as SVG: a row per estimate, with its interval, on a shared axis around zero."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from transfer.drawing.svg import GRAY, path_element, text_element, ticks

_ROW = 18  # height of a row in pixels
_LEFT, _RIGHT = 400, 100  # room for the labels and for the texts
_WIDTH, _TOP, _BOTTOM = 900, 8, 34
_FONT = "font-size:10px"
_CHARACTERS = 76  # of a label


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: the estimate, with low <= high around it; all are finite and in the unit of the axis.
        text: printed at the right, such as ``+2.3 better``.
    """

    label: str
    value: float
    low: float
    high: float
    color: str
    text: str = ""


def forest(
    rows: Sequence[Interval],
    *,
    x_label: str,
    label: str,  # read aloud by screen readers
    margin: float | None = None,  # a band from -margin to margin is tinted
) -> str:
    """The intervals, one below the other, as one ``<svg>`` element; zero is always on the axis."""
    ends = [0.0, *(end for row in rows for end in (row.low, row.high, row.value))]
    ends += [-margin, margin] if margin is not None else []
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room
    x0, x1 = float(_LEFT), float(_WIDTH - _RIGHT)
    y0, y1 = float(_TOP), float(_TOP + _ROW * len(rows))

    def place(value: float) -> float:
        return x0 + (value - low) / (high - low) * (x1 - x0)

    out = [_band(place(-margin), place(margin), y0, y1)] if margin is not None else []
    for value in ticks(low, high, 6):
        x = place(value)
        out.append(
            path_element([(x, y0), (x, y1)], f"stroke:{GRAY};stroke-width:.4;stroke-opacity:.35")
        )
        out.append(text_element(x, y1 + 13, _signed(value), f"{_FONT};text-anchor:middle"))
    out.append(
        path_element([(place(0), y0), (place(0), y1)], "stroke:currentColor;stroke-width:.8")
    )
    out.append(text_element((x0 + x1) / 2, y1 + 27, x_label, f"{_FONT};text-anchor:middle"))
    for number, row in enumerate(rows):
        out += _interval(row, y0 + _ROW * (number + 0.5), place)
    height = int(y1) + _BOTTOM
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(out)}</svg>"
    )


def _signed(value: float) -> str:
    """With a plus sign or a minus sign of the same width."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def _band(x0: float, x1: float, y0: float, y1: float) -> str:
    return (
        f'<path d="M{x0:.1f} {y0:.1f}H{x1:.1f}V{y1:.1f}H{x0:.1f}Z" '
        f'style="fill:{GRAY};fill-opacity:.15;stroke:none"/>'
    )


def _interval(row: Interval, y: float, place: Callable[[float], float]) -> list[str]:
    """The label, the interval with its ends, the estimate, and the text of a row."""
    x, ends, style = place(row.value), [place(row.low), place(row.high)], f"stroke:{row.color}"
    half = (len(row.label) > _CHARACTERS) * (_CHARACTERS - 5) // 2
    label = f"{row.label[:half]} ... {row.label[-half:]}" if half else row.label
    return [
        text_element(_LEFT - 8, y + 3, label, f"{_FONT};text-anchor:end"),
        path_element([(ends[0], y), (ends[1], y)], f"{style};stroke-width:1.5"),
        *(path_element([(e, y - 3), (e, y + 3)], f"{style};stroke-width:1.2") for e in ends),
        path_element([(x - 3, y), (x + 3, y)], f"{style};stroke-width:6"),
        text_element(_WIDTH - _RIGHT + 8, y + 3, row.text, _FONT),
    ]
