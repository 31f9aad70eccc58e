"""The curve on disk: what a continued run keeps, and a disk that is full."""

from pathlib import Path

import pytest
from transfer.detectors.curve import Curve

from msbreg.run.errors import UserError
from tests.transfer.detectors.toys import config, new_state

FULL = Path("/dev/full")  # Linux: every write says that no space is left


@pytest.fixture
def state(tmp_path):
    return new_state(config(tmp_path))


def test_a_continued_run_keeps_the_rows_before_its_checkpoint(tmp_path, state):
    rows = [
        {"iteration": 2, "total_loss": 1.0},
        {"iteration": 4, "total_loss": 0.5},
        {"iteration": 4, "scores": {"box_AP": 3.0}},
    ]
    curve = Curve(tmp_path, state)
    for row in rows:
        curve.add(row)
    with open(curve.path, "a") as file:
        file.write('{"iteration": 6, "tot')  # cut off by a kill
    state.iteration, state.evaluated_at = 4, 0
    Curve(tmp_path, state)
    assert curve.path.read_text().count("\n") == 2
    assert "scores" not in curve.path.read_text()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told_in_words(tmp_path, state):
    curve = Curve(tmp_path, state)
    curve.path = FULL
    with pytest.raises(UserError, match=r"cannot write /dev/full: No space left.*\.\nFree some"):
        curve.add({"iteration": 1})


def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path, state):
    with pytest.raises(UserError, match=r"cannot write .*gone/curve.jsonl: No such file"):
        Curve(tmp_path / "gone", state)
