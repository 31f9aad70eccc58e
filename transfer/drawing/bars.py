"""Paired horizontal bars as SVG: two values for each name, one above the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from transfer.drawing.svg import BLUE, GRAY, path_element, text_element, ticks

_ROW, _BAR = 17, 6  # height of a row and of a bar in pixels
_LEFT, _RIGHT = 150, 60  # room for the names and for the texts
_WIDTH, _TOP, _BOTTOM = 620, 24, 34
_FONT = "font-size:10px"


@dataclass(frozen=True)
class BarPair:
    """Two values of one name; NaN is not drawn. The text is printed at the right."""

    name: str
    first: float
    second: float
    text: str = ""


def paired_bars(
    pairs: Sequence[BarPair],
    *,
    legend: tuple[str, str],
    x_label: str,
    label: str,  # read aloud by screen readers
) -> str:
    """The pairs, one below the other, as one ``<svg>`` element; the axis contains zero."""
    values = [v for pair in pairs for v in (pair.first, pair.second) if math.isfinite(v)]
    low, high = min([0.0, *values]), max([0.0, *values])
    high = high if high > low else low + 1.0
    x0, x1 = float(_LEFT), float(_WIDTH - _RIGHT)
    y0, y1 = float(_TOP), float(_TOP + _ROW * len(pairs))

    def place(value: float) -> float:
        return x0 + (value - low) / (high - low) * (x1 - x0)

    out = _legend(legend)
    for value in ticks(low, high, 5):
        x = place(value)
        out.append(
            path_element([(x, y0), (x, y1)], f"stroke:{GRAY};stroke-width:.4;stroke-opacity:.35")
        )
        out.append(text_element(x, y1 + 13, f"{value:g}", f"{_FONT};text-anchor:middle"))
    out.append(text_element((x0 + x1) / 2, y1 + 27, x_label, f"{_FONT};text-anchor:middle"))
    for number, pair in enumerate(pairs):
        y = y0 + _ROW * number + _ROW / 2
        name = pair.name if len(pair.name) <= 26 else f"{pair.name[:24]}…"
        out.append(text_element(_LEFT - 8, y + 3, name, f"{_FONT};text-anchor:end"))
        for value, color, rise in ((pair.first, BLUE, -_BAR / 2), (pair.second, GRAY, _BAR / 2)):
            if math.isfinite(value):
                ends = [(place(0), y + rise), (place(value), y + rise)]
                out.append(path_element(ends, f"stroke:{color};stroke-width:{_BAR}"))
        out.append(text_element(_WIDTH - _RIGHT + 8, y + 3, pair.text, _FONT))
    out.append(
        path_element([(place(0), y0), (place(0), y1)], "stroke:currentColor;stroke-width:.8")
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {int(y1) + _BOTTOM}" role="img" aria-label="{escape(label)}">'
        f"{''.join(out)}</svg>"
    )


def _legend(names: tuple[str, str]) -> list[str]:
    """Both names, each after a piece of its bar."""
    out, x = [], float(_LEFT)
    for name, color in zip(names, (BLUE, GRAY), strict=True):
        name = name if len(name) <= 40 else f"{name[:38]}…"
        out.append(path_element([(x, 9), (x + 12, 9)], f"stroke:{color};stroke-width:{_BAR}"))
        out.append(text_element(x + 16, 12, name, _FONT))
        x += 5.5 * len(name) + 34
    return out
