import logging
import re
import time

import pytest

from msbreg.run import progress
from msbreg.run.progress import Progress, duration, speed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 04 h"),
        (float("inf"), "unknown time"),
    ],
)
def test_durations_use_two_units(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("per_second", "unit", "words"),
    [
        (1234.4, "views", "1234 views/s"),
        (9.96, "images", "10.0 images/s"),
        (1.25, "images", "1.2 images/s"),
        (0.5, "images", "2.0 s per image"),
        (1 / 12, "classes", "12 s per class"),
        (1 / 185, "epochs", "3 min 05 s per epoch"),
        (0, "classes", "no classes yet"),
    ],
)
def test_slow_rates_are_shown_as_time_per_unit(per_second, unit, words):
    assert speed(per_second, unit) == words


def test_log_lines_show_rate_and_remaining_time_without_resumed_steps(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("msbreg")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    with Progress("work", 100, first=50, per_step=4, unit="views") as shown:
        time.sleep(0.05)
        shown.update(51, "more")
    log.removeHandler(handler)
    assert len(lines) == 1
    assert lines[0].startswith("work 51/100  ")
    assert re.search(r" views/s, | s per view, ", lines[0])
    assert lines[0].endswith("left  more")
    assert 0 < shown.rate <= 20  # one step in at least 0.05 s, not 51
