import logging
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from msbreg.run.config import Card, Interrupted
from msbreg.run.errors import UserError
from msbreg.run.job import AlreadyFinished, job
from msbreg.run.record import read_record


@dataclass(frozen=True)
class Settings:
    output: Path
    device: str = "cpu"
    seed: int = 0
    epochs: int = 1
    finished: str = "error"


def test_a_run_that_ends_is_done_and_its_log_is_kept(tmp_path):
    with job(Settings(tmp_path / "run"), Card(), kind="knn") as running:
        assert read_record(tmp_path / "run")["status"] == "running"
        logging.getLogger("msbreg").info("a line")
        running.warn("mind this")
        running.warn("mind this")
        running.results = {"top1": 50.0}
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["results"] == {"top1": 50.0}
    assert record["warnings"] == ["mind this"]
    assert "a line" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("bad input"), "failed"),
        (ZeroDivisionError("x / 0"), "failed"),
        (Interrupted("stopped"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_how_a_run_ended_is_in_the_record(tmp_path, error, status):
    with (
        pytest.raises(type(error)),
        job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise error
    record = read_record(tmp_path / "run")
    assert record["status"] == status
    if status == "failed":
        assert record["error"] == str(error)
        assert ("traceback" in record) == (not isinstance(error, UserError))


def test_signals_become_a_wish_and_are_put_back_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with job(Settings(tmp_path / "run"), Card(), kind="knn") as running:
        running.stop.watched = True
        assert not running.stop
        signal.raise_signal(signal.SIGTERM)
        assert running.stop
        assert running.stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        job(Settings(tmp_path / "run"), Card(), kind="knn") as running,
    ):
        running.stop.watched = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once_where_nobody_watches(tmp_path, number):
    with (
        pytest.raises(KeyboardInterrupt),
        job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        signal.raise_signal(number)
    assert read_record(tmp_path / "run")["status"] == "interrupted"


def test_a_finished_run_of_another_checkpoint_is_not_skipped(tmp_path):
    settings = Settings(tmp_path / "run", finished="skip")
    with job(settings, Card(), kind="knn", inputs={"checkpoint": "aa"}):
        pass
    with (
        pytest.raises(UserError, match="the checkpoint file has changed"),
        job(settings, Card(), kind="knn", inputs={"checkpoint": "bb"}),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(AlreadyFinished),
        job(settings, Card(), kind="knn", inputs={"checkpoint": "aa"}),
    ):
        raise AssertionError("not reached")


def test_protocols_refuse_to_run_in_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UserError, match="knn runs in one process"),
        job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")


def test_a_continued_run_keeps_its_warnings_and_its_time(tmp_path):
    with pytest.raises(UserError), job(Settings(tmp_path / "run"), Card(), kind="knn") as running:
        (tmp_path / "run" / "c.pth").touch()
        running.warn("mind this")
        raise UserError("stopped")
    first = read_record(tmp_path / "run")
    with job(Settings(tmp_path / "run"), Card(), kind="knn", resume_file="c.pth"):
        pass
    second = read_record(tmp_path / "run")
    assert second["warnings"] == ["mind this"]
    assert second["started"] == first["started"]
    assert second["seconds"] >= first["seconds"]


def test_a_finished_folder_is_refused_or_skipped_but_never_overwritten(tmp_path):
    with job(Settings(tmp_path / "run"), Card(), kind="knn"):
        pass
    with (
        pytest.raises(UserError, match="holds a finished run"),
        job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(AlreadyFinished),
        job(Settings(tmp_path / "run", finished="skip"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(UserError, match=r"of other settings \(epochs = 2 here\)"),
        job(Settings(tmp_path / "run", epochs=2, finished="skip"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")


def test_a_folder_of_another_kind_of_run_is_refused(tmp_path):
    with job(Settings(tmp_path / "run"), Card(), kind="knn"):
        pass
    with (
        pytest.raises(UserError, match="holds a run of knn, this is svm"),
        job(Settings(tmp_path / "run"), Card(), kind="svm"),
    ):
        raise AssertionError("not reached")


def test_an_unfinished_run_without_anything_to_continue_starts_again(tmp_path):
    with pytest.raises(UserError), job(Settings(tmp_path / "run"), Card(), kind="knn"):
        raise UserError("stopped")
    with job(
        Settings(tmp_path / "run", epochs=2), Card(), kind="knn", resume_file="c.pth"
    ) as again:
        assert not again.resumed


def test_an_unfinished_run_with_a_file_is_continued_with_the_same_settings_only(tmp_path):
    with pytest.raises(UserError), job(Settings(tmp_path / "run"), Card(), kind="knn"):
        (tmp_path / "run" / "c.pth").touch()
        raise UserError("stopped")
    with (
        pytest.raises(UserError, match="unfinished run of other settings: epochs = 2 here"),
        job(Settings(tmp_path / "run", epochs=2), Card(), kind="knn", resume_file="c.pth"),
    ):
        raise AssertionError("not reached")
    with job(Settings(tmp_path / "run"), Card(), kind="knn", resume_file="c.pth") as again:
        assert again.resumed
    assert read_record(tmp_path / "run")["resumed_from"] == "failed"


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with (
        pytest.raises(UserError, match="cannot be written"),
        job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
