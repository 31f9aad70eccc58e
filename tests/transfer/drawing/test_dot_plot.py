"""Dot plots place values proportionally, at any width of the page."""

import re
import xml.etree.ElementTree as ET

import pytest

from transfer.drawing.dot_plot import Dot, DotRow, dot_plot


def drawn(*rows):
    return dot_plot(rows, label="A & B")


def centers(svg):
    return [float(x) for x in re.findall(r'<circle cx="([\d.]+)%"', svg)]


def test_distances_are_proportional_to_differences():
    row = DotRow("t", "%", [Dot(value, "a", "1") for value in (0.0, 10.0, 30.0)])
    first, second, third = centers(drawn(row))
    assert 0 < first < second < third < 100
    assert third - second == pytest.approx(2 * (second - first), abs=0.03)


def test_small_differences_look_small():
    row = DotRow("t", "%", [Dot(value, "a", "1") for value in (5.0, 5.1)], least=10.0)
    first, second = centers(drawn(row))
    assert second - first < 1.5


def test_a_value_that_the_axis_need_not_reach_is_written_at_its_end():
    dots = [Dot(2.0, "untrained", "u", outside=True), Dot(60.0, "a", "1"), Dot(70.0, "b", "2")]
    svg = drawn(DotRow("t", "%", dots))
    assert ">← 2.0</text>" in svg
    first, second, third = centers(svg)
    assert first < second < 10
    assert third - second > 80


def test_a_bar_is_as_wide_as_twice_the_spread():
    dots = [Dot(10.0, "a", "1", spread=2.0), Dot(14.0, "b", "2")]
    svg = drawn(DotRow("t", "%", dots))
    (bar,) = re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%"[^>]*stroke-width:5', svg)
    first, second = centers(svg)
    assert float(bar[1]) - float(bar[0]) == pytest.approx(second - first, abs=0.03)


def test_only_named_dots_are_labeled_and_all_have_a_title():
    svg = drawn(DotRow("t", "%", [Dot(1.0, "hidden"), Dot(2.0, "shown", named=True)]))
    assert re.findall(r">(\w+ \d\.\d)</text>", svg) == ["shown 2.0"]
    assert svg.count("<title>") == 2


def test_names_stay_inside_the_drawing():
    svg = drawn(DotRow("t", "%", [Dot(v, f"n{v}", named=True) for v in (0.0, 100.0)]))
    sides = re.findall(r"text-anchor:(\w+)\">n", svg)
    assert sides == ["start", "end"]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e30, -1e30], [1e-300]])
def test_degenerate_values_have_a_plot(values):
    svg = drawn(DotRow('<b> & "c"', "%", [Dot(value, "</svg>", "1") for value in values]))
    ET.fromstring(svg)
    assert all(0 <= x <= 100 for x in centers(svg))
