import matplotlib
import pytest
from matplotlib.figure import Figure

from transfer.drawing.svg import INK, STYLE, svg_of


@pytest.fixture
def svg():
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "test"}):
        figure = Figure()
        figure.subplots().set_title("a title")
        return svg_of(figure)


def test_text_stays_text_in_the_color_of_the_page(svg):
    assert "a title</text>" in svg
    assert "currentColor" in svg
    assert INK not in svg


def test_there_is_no_white_ground(svg):
    assert "#ffffff" not in svg


def test_the_same_figure_is_the_same_file(svg):
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "test"}):
        figure = Figure()
        figure.subplots().set_title("a title")
        assert svg_of(figure) == svg
