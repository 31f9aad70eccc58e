"""Forest plots have the given numbers on an axis with zero."""

import re
import xml.etree.ElementTree as ET

import pytest

from transfer.drawing.intervals import Interval, forest
from transfer.drawing.svg import BLUE, GREEN, as_file


def drawn(*rows, **options):
    return forest(rows, x_label="difference [%]", label="A & B", **options)


def ends_of(svg, color):
    """x of the ends of the intervals of one color."""
    found = re.findall(
        rf'<path d="M([\d.]+) [\d.]+L([\d.]+) [\d.]+" style="fill:none;stroke:{color};stroke-width:1.5"',
        svg,
    )
    return [(float(a), float(b)) for a, b in found]


def test_distances_on_the_axis_are_proportional_to_the_values():
    svg = drawn(Interval("a", 10, 0, 20, GREEN), Interval("b", 30, 20, 40, BLUE))
    ((zero, twenty),), ((also_twenty, forty),) = ends_of(svg, GREEN), ends_of(svg, BLUE)
    assert also_twenty == twenty
    assert forty - twenty == pytest.approx(twenty - zero, abs=0.11)  # coordinates have one decimal


def test_zero_is_on_the_axis_even_if_all_intervals_are_far_from_it():
    svg = drawn(Interval("a", 90, 80, 95, GREEN))
    assert ">0</text>" in svg
    zero = float(re.search(r'd="M([\d.]+) [^"]*" style="fill:none;stroke:currentColor', svg)[1])
    ((low, high),) = ends_of(svg, GREEN)
    assert zero < low < high


def test_the_margin_is_a_band_around_zero():
    svg = drawn(Interval("a", 0, -2, 2, GREEN), margin=1)
    left, right = re.search(r'd="M([\d.]+) [\d.]+H([\d.]+)V', svg).groups()
    ((low, high),) = ends_of(svg, GREEN)
    assert (float(right) - float(left)) / (high - low) == pytest.approx(0.5, abs=0.01)


def test_a_file_is_well_formed_and_texts_are_escaped():
    root = ET.fromstring(as_file(drawn(Interval("<a> & b", 1, 0, 2, GREEN, "+1.0 better"))))
    texts = [
        "".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"<a> & b", "+1.0 better", "difference [%]"} <= set(texts)


def test_a_long_label_keeps_its_start_and_its_end():
    svg = drawn(Interval("first " + "x" * 200 + " last", 1, 0, 2, GREEN))
    label = re.search(r">(first [^<]* last)<", svg)[1]
    assert len(label) <= 76


def test_equal_values_are_drawn():
    assert "nan" not in drawn(Interval("a", 0, 0, 0, GREEN))
