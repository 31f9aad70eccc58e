"""A figure is drawn again if its file or its settings have changed, and only then."""

import json
import os

import pytest

from msbreg.run.errors import UserError
from tests.transfer.report.records import write_pretraining
from transfer.drawing import figure_memory
from transfer.drawing.figure_memory import remembered
from transfer.report.curves import draw_curve


def drawn(calls, content, *settings):
    return remembered(lambda: calls.append(content) or len(calls), content, *settings)


def test_equal_content_and_settings_are_drawn_once():
    calls = []
    first = drawn(calls, b"one", "label", 3)
    assert drawn(calls, b"one", "label", 3) == first
    assert calls == [b"one"]


@pytest.mark.parametrize(("content", "settings"), [(b"2", ("a",)), (b"1", ("b",)), (b"1", ())])
def test_other_content_or_settings_are_drawn(content, settings):
    calls = []
    drawn(calls, b"1", "a")
    drawn(calls, content, *settings)
    assert calls[-1] == content


def test_an_error_is_not_remembered():
    def fail():
        raise UserError("no")

    for _ in range(2):
        with pytest.raises(UserError, match="no"):
            remembered(fail, b"failing")


def test_the_memory_has_a_limit():
    for number in range(figure_memory.MOST + 5):
        remembered(lambda: None, b"limit", number)
    assert len(figure_memory._KEPT) == figure_memory.MOST


def test_a_curve_that_has_grown_without_a_new_time_is_drawn_again(tmp_path):
    folder = write_pretraining(tmp_path / "a")
    path = folder / "curve.jsonl"
    time = os.stat(path).st_mtime_ns
    before = draw_curve(folder, {}, "a run")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with path.open("a") as file:
        file.write(json.dumps(rows[-1] | {"epoch": 4}) + "\n")
    os.utime(path, ns=(time, time))
    assert draw_curve(folder, {}, "a run").rows == before.rows + 1
