"""Plots are small, well-formed SVG with the given numbers."""

import re
import xml.etree.ElementTree as ET

import pytest

from transfer.drawing.svg import BLUE, MOST_POINTS, ORANGE, Line, Panel, as_file, plots


def drawn(*panels):
    return plots(panels, columns=2, label="A & B")


def points(svg, color):
    """Coordinates of the lines of one color."""
    paths = re.findall(rf'<path d="M([^"]*)" style="fill:none;stroke:{color};stroke-width:1.5', svg)
    return [[tuple(map(float, p.split())) for p in path.split("L")] for path in paths]


def test_a_line_runs_from_the_lower_left_to_the_upper_right_corner():
    panel = Panel("t", [Line([(0, 0), (1, 1)], BLUE)], x_range=(0, 1), y_range=(0, 1))
    (((x0, y0), (x1, y1)),) = points(drawn(panel), BLUE)
    assert (x0, y0, x1, y1) == (42, 150, 240, 44)


def test_a_file_is_well_formed_and_follows_the_color_scheme():
    svg = as_file(drawn(Panel('<b> & "c"', [Line([(0, 1), (1, 2)], BLUE, "</svg>")], "x")))
    root = ET.fromstring(svg)
    assert (root.get("width"), root.get("height")) == ("500", "180")
    assert "prefers-color-scheme:dark" in svg
    assert "currentColor" in svg
    assert "&lt;/svg&gt;" in svg


def test_a_long_line_is_thinned_and_keeps_its_ends():
    line = Line([(k, k % 7) for k in range(10_000)], BLUE)
    (placed,) = points(drawn(Panel("t", [line], x_range=(0, 9_999))), BLUE)
    assert len(placed) == MOST_POINTS
    assert (placed[0][0], placed[-1][0]) == (42, 240)


@pytest.mark.parametrize(
    "values",
    [[], [5.0], [0.0, 0.0], [1e30, 1e30], [-1e30, 1e30], [1e-300, 2e-300], [1e9, 1e9 + 1e-6]],
)
@pytest.mark.parametrize("log", [False, True])
def test_degenerate_values_have_a_plot(values, log):
    svg = drawn(Panel("t", [Line(list(enumerate(values)), ORANGE)], log=log))
    ET.fromstring(as_file(svg))
    assert "nan" not in svg
    assert ("not recorded" in svg) == (not [v for v in values if v > 0 or not log])


def test_a_logarithmic_plot_leaves_out_what_is_not_positive():
    line = Line([(0, 0.0), (1, 1.0), (2, -1.0), (3, 0.01)], BLUE)
    (placed,) = points(drawn(Panel("t", [line], log=True)), BLUE)
    assert len(placed) == 2


def test_a_level_is_labeled_and_within_the_plot():
    svg = drawn(Panel("t", [Line([(0, 1), (1, 2)], BLUE)], levels=[(9.0, "collapse")]))
    assert "collapse</text>" in svg
