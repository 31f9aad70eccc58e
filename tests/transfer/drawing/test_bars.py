"""Paired bars have lengths in proportion to their values."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from transfer.drawing.bars import BarPair, paired_bars
from transfer.drawing.svg import BLUE, GRAY, as_file


def drawn(*pairs, **options):
    return paired_bars(pairs, legend=("ours", "theirs"), x_label="AP [%]", label="A & B", **options)


def lengths(svg, color):
    """Lengths of the bars of one color, without that of the legend."""
    found = re.findall(
        rf'<path d="M([\d.]+) [\d.]+L([\d.]+) [\d.]+" style="fill:none;stroke:{color};stroke-width:6"',
        svg,
    )
    return [float(b) - float(a) for a, b in found][1:]


def test_lengths_are_proportional_to_the_values():
    svg = drawn(BarPair("cat", 80, 20), BarPair("dog", 40, 10))
    first, second = lengths(svg, BLUE)
    assert first == pytest.approx(2 * second, abs=0.11)  # coordinates have one decimal
    assert lengths(svg, GRAY)[0] == pytest.approx(first / 4, abs=0.11)


def test_negative_values_go_to_the_left_of_zero():
    svg = drawn(BarPair("cat", -10, 10))
    assert lengths(svg, BLUE)[0] == pytest.approx(-lengths(svg, GRAY)[0], abs=0.11)


def test_undefined_values_have_no_bar():
    svg = drawn(BarPair("cat", math.nan, 20))
    assert lengths(svg, BLUE) == []
    assert len(lengths(svg, GRAY)) == 1
    assert "nan" not in svg


def test_no_pairs_and_only_zeros_are_drawn():
    for svg in (drawn(), drawn(BarPair("cat", 0, 0))):
        assert "nan" not in svg
        ET.fromstring(as_file(svg))


def test_names_are_escaped_and_cut():
    svg = drawn(BarPair("<b>" + "x" * 60, 1, 2, "−1.0"))
    assert "&lt;b&gt;" in svg
    assert "x" * 30 not in svg
    assert ">−1.0</text>" in svg
