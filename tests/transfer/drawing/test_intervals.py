"""Forest plots have the given numbers on an axis with zero."""

import re
import xml.etree.ElementTree as ET

import pytest

from transfer.drawing.intervals import Interval, forest
from transfer.drawing.svg import BLUE, GREEN


def drawn(*rows, **options):
    return forest(rows, x_label="difference [%]", label="A & B", **options)


def ends_of(html, color):
    """x of the ends of the intervals of one color, in percent."""
    found = re.findall(
        rf'<line x1="([\d.]+)%" x2="([\d.]+)%" y1="50%" y2="50%" style="stroke:{color};', html
    )
    return [(float(a), float(b)) for a, b in found]


def test_distances_on_the_axis_are_proportional_to_the_values():
    html = drawn(Interval("a", 10, 0, 20, GREEN), Interval("b", 30, 20, 40, BLUE))
    ((zero, twenty),), ((also_twenty, forty),) = ends_of(html, GREEN), ends_of(html, BLUE)
    assert also_twenty == twenty
    assert forty - twenty == pytest.approx(twenty - zero, abs=0.02)  # two decimals


def test_zero_is_on_the_axis_even_if_all_intervals_are_far_from_it():
    html = drawn(Interval("a", 90, 80, 95, GREEN))
    assert ">0</text>" in html
    zero = float(re.search(r'<line x1="([\d.]+)%"[^>]*stroke:currentColor', html)[1])
    ((low, high),) = ends_of(html, GREEN)
    assert zero < low < high < 100


def test_the_margin_is_a_band_around_zero():
    html = drawn(Interval("a", 0, -2, 2, GREEN), margin=1)
    width = float(re.search(r'<rect x="[\d.]+%" y="0" width="([\d.]+)%"', html)[1])
    ((low, high),) = ends_of(html, GREEN)
    assert width / (high - low) == pytest.approx(0.5, abs=0.01)


def test_texts_are_escaped_and_read_in_their_order():
    root = ET.fromstring(drawn(Interval("<a> & b", 1, 0, 2, GREEN, "+1.0 better")))
    assert root.get("aria-label") == "A & B"
    assert [e.text for e in root.iter("span")] == ["<a> & b", "difference [%]"]
    assert next(root.iter("b")).text == "+1.0 better"


def test_equal_values_are_drawn():
    html = drawn(Interval("a", 0, 0, 0, GREEN))
    assert "nan" not in html
    assert len(ends_of(html, GREEN)) == 1


def test_the_heading_of_a_group_is_above_its_first_row_only():
    rows = [
        Interval(name, 1.0, 0.0, 2.0, "red", group=group)
        for name, group in (("one", "A & B"), ("two", "A & B"), ("three", "C"))
    ]
    figure = forest(rows, x_label="difference [%]", label="differences")
    assert figure.count('<p class="pair">') == 2
    order = [figure.index(text) for text in (">A &amp; B<", ">one<", ">two<", ">C<", ">three<")]
    assert order == sorted(order)
