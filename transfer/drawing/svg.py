"""Small line plots as SVG, without a plotting library: a plot of 100 points takes about 2 kB and 1 ms.

Colors are legible on white and on black pages; text and axes use the page's own color. Text is not
converted to paths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BLUE, ORANGE, GREEN, PURPLE, GRAY = "#3a86c8", "#cb7119", "#3f9f6b", "#a06cc0", "#8a8f98"
MOST_POINTS = 300  # per line; more are subsampled evenly, including the first and the last

_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 44, 30  # margins around the axes, in pixels
_FONT = "font-size:10px"
# The text color for light and for dark color schemes.
_SCHEMES = (
    "<style>:root{color:#24292f}@media (prefers-color-scheme:dark){:root{color:#d0d7de}}</style>"
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points in data coordinates, in the order in which they are connected; coordinates are finite."""

    points: Sequence[Point]
    color: str
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        levels: (value, label) of horizontal dashed lines.
        marks: (x, y, label) of crosses; drawn only with lines, and not if the y axis is logarithmic.
        x_range: limits of the x axis; None fits the points.
        y_range: limits of the y axis; None fits the points and levels.
        log: whether the y axis is logarithmic; values that are not positive are omitted.
    """

    title: str
    lines: Sequence[Line]
    x_label: str = ""
    levels: Sequence[tuple[float, str]] = ()
    x_range: Point | None = None
    y_range: Point | None = None
    log: bool = False
    marks: Sequence[tuple[float, float, str]] = ()


def plots(
    panels: Sequence[Panel],
    *,
    columns: int,
    label: str,  # read aloud by screen readers
    size: tuple[int, int] = (250, 180),  # width and height of a panel in pixels
) -> str:
    """The panels, row by row, as one ``<svg>`` element without ids, scripts or links."""
    width, height = size
    rows = -(-len(panels) // columns)
    drawn = "".join(
        _panel(panel, (k % columns) * width, (k // columns) * height, width, height)
        for k, panel in enumerate(panels)
    )
    return (
        f'<svg viewBox="0 0 {columns * width} {rows * height}" role="img" '
        f'aria-label="{escape(label)}">{drawn}</svg>'
    )


def as_file(svg: str) -> str:
    """The content of an SVG file that follows the reader's color scheme."""
    head, _, rest = svg.partition(">")
    width, height = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    size = f'width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg"'
    head = head.replace("<svg", f"<svg {size}", 1)
    return f'{head} font-family="sans-serif">{_SCHEMES}{rest}\n'


def _panel(panel: Panel, left: float, top: float, width: int, height: int) -> str:
    x0, x1, y0, y1 = left + _LEFT, left + width - _RIGHT, top + _TOP, top + height - _BOTTOM
    out = [text_element(left + 6, top + 12, panel.title, "font-size:11px;font-weight:600")]
    lines = [
        (line, points)
        for line in panel.lines
        if (points := _thinned([p for p in line.points if p[1] > 0 or not panel.log]))
    ]
    out.append(path_element([(x0, y0), (x0, y1), (x1, y1)], "stroke:currentColor;stroke-width:.6"))
    if not lines:
        out.append(
            text_element(
                (x0 + x1) / 2, (y0 + y1) / 2, "not recorded", f"{_FONT};text-anchor:middle"
            )
        )
        return "".join(out)
    marks = () if panel.log else panel.marks
    x_values = [x for _, points in lines for x, _ in points] + [x for x, _, _ in marks]
    x_low, x_high = panel.x_range or value_range(x_values)
    values = [y for _, points in lines for _, y in points] + [v for v, _ in panel.levels]
    values += [y for _, y, _ in marks]
    if panel.log:
        values = [math.log10(value) for value in values if value > 0]
    y_low, y_high = panel.y_range or _padded(*value_range(values))

    def place(x: float, y: float) -> Point:
        y = math.log10(y) if panel.log else y
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return x0 + across * (x1 - x0), y1 - up * (y1 - y0)

    for value in ticks(y_low, y_high, 4, whole=panel.log):
        y = y1 - (value - y_low) / (y_high - y_low) * (y1 - y0)
        out.append(
            path_element([(x0, y), (x1, y)], f"stroke:{GRAY};stroke-width:.4;stroke-opacity:.35")
        )
        label = f"{10**value:g}" if panel.log else f"{value:.4g}"
        out.append(text_element(x0 - 4, y + 3, label, f"{_FONT};text-anchor:end"))
    counted = panel.x_range is None and all(float(x).is_integer() for x in x_values)
    for value in ticks(x_low, x_high, 4, whole=counted or x_high - x_low >= 4):
        x = x0 + (value - x_low) / (x_high - x_low) * (x1 - x0)
        out.append(path_element([(x, y1), (x, y1 + 3)], "stroke:currentColor;stroke-width:.6"))
        out.append(text_element(x, y1 + 13, f"{value:.6g}", f"{_FONT};text-anchor:middle"))
    out.append(text_element((x0 + x1) / 2, y1 + 25, panel.x_label, f"{_FONT};text-anchor:middle"))
    for value, label in panel.levels:
        y = place(x_low, value)[1]
        out.append(
            path_element([(x0, y), (x1, y)], f"stroke:{GRAY};stroke-width:1;stroke-dasharray:4 3")
        )
        out.append(text_element(x1, y - 3, label, "font-size:9px;text-anchor:end"))
    for number, (x, y, label) in enumerate(marks):
        (x, y), left_side = place(x, y), number % 2 == 1
        for rise in (3, -3):
            out.append(
                path_element(
                    [(x - 3, y - rise), (x + 3, y + rise)], f"stroke:{GRAY};stroke-width:1.2"
                )
            )
        side = f"text-anchor:{'end' if left_side else 'start'}"
        out.append(
            text_element(x - 5 if left_side else x + 5, y + 3, label, f"font-size:9px;{side}")
        )
    for line, points in lines:
        placed = [place(x, y) for x, y in points]
        style = f"stroke:{line.color};stroke-width:1.5" + (";stroke-dasharray:4 2" * line.dashed)
        out.append(path_element(placed, style))
        if len(placed) <= 12:
            out += [
                path_element([(x - 1.5, y), (x + 1.5, y)], f"stroke:{line.color};stroke-width:3")
                for x, y in placed
            ]
    return "".join(
        [*out, *_legend([line for line, _ in lines if line.label], left + 6, top + 24, width)]
    )


def _legend(lines: Sequence[Line], left: float, y: float, width: int) -> list[str]:
    """Labels after a short piece of their lines, wrapped into rows.

    The text has the page's color: the colors of lines contrast enough for shapes, but not for small text.
    """
    out = []
    x = left
    for line in lines:
        if x > left and x + 5.5 * len(line.label) + 14 > left + width - 16:
            x, y = left, y + 11
        style = f"stroke:{line.color};stroke-width:2.5" + (";stroke-dasharray:4 2" * line.dashed)
        out.append(path_element([(x, y - 3), (x + 11, y - 3)], style))
        out.append(text_element(x + 14, y, line.label, "font-size:9px"))
        x += 5.5 * len(line.label) + 24
    return out


def text_element(x: float, y: float, text: str, style: str) -> str:
    """A ``<text>`` in the page's color unless the style has a ``fill``; empty if the text is."""
    if not text:
        return ""
    fill = "" if "fill:" in style else "fill:currentColor;"
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{fill}{style}">{escape(text)}</text>'


def path_element(points: Sequence[Point], style: str) -> str:
    """A ``<path>`` without fill that connects the points."""
    places = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{places}" style="fill:none;{style}"/>'


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(k * step)] for k in range(MOST_POINTS)]


def value_range(values: Sequence[float]) -> Point:
    """The smallest and the largest value, widened if they are equal."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.0 if high - low > 1e-9 * max(abs(low), abs(high)) else 0.5 * (abs(high) or 1.0)
    return low - room, high + room


def _padded(low: float, high: float) -> Point:
    room = 0.06 * (high - low)
    return low - room, high + room


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most ``most`` + 1 round values between low and high; integers if ``whole``.

    >>> ticks(0, 9, 4, whole=True)
    [0, 5]
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    if whole:
        step = max(1, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]
