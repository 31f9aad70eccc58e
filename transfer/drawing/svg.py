"""Figures as SVG: tones that read on white and on black, text and axes in the page's own color."""

import io
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text color until the SVG is written
BLUE, ORANGE, GREEN, PURPLE, GRAY = "#3a86c8", "#d9822b", "#3f9f6b", "#a06cc0", "#8a8f98"
STYLE: Any = {
    "font.family": "sans-serif",
    "svg.fonttype": "none",  # text stays text: small, selectable, in the reader's font
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}
"""For ``matplotlib.rc_context``; add a size of the font, and ``svg.hashsalt`` for ids that repeat."""


def svg_of(figure: Figure) -> str:
    """The SVG file of a figure drawn in ``STYLE``, without a ground and without a date."""
    figure.patch.set_visible(False)
    for ax in figure.axes:
        ax.patch.set_visible(False)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue().replace(INK, "currentColor")
