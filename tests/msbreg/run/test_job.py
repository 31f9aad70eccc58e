import json
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from msbreg.run.config import Card
from msbreg.run.errors import Interrupted, RunFailed, UserError
from msbreg.run.job import AlreadyFinished, start_job
from msbreg.run.record import read_record
from tests.processes import Program, run_code


@dataclass(frozen=True)
class Settings:
    output: Path
    device: str = "cpu"
    seed: int = 0
    epochs: int = 1
    finished: str = "error"
    name: str = ""
    save_seconds: float = 60.0
    trust_pickle: bool = False


ROOT = Path(__file__).resolve().parents[3]


def test_a_completed_run_is_recorded_as_done_with_its_log(tmp_path):
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn") as job:
        assert read_record(tmp_path / "run")["status"] == "running"
        logging.getLogger("msbreg").info("a line")
        job.warn("mind this")
        job.warn("mind this")
        job.results = {"top1": 50.0}
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["results"] == {"top1": 50.0}
    assert record["warnings"] == ["mind this"]
    assert "a line" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("bad input"), "failed"),
        (RunFailed("diverged"), "failed"),
        (ZeroDivisionError("x / 0"), "failed"),
        (Interrupted("stopped"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_the_record_states_how_the_run_ended(tmp_path, error, status):
    with (
        pytest.raises(type(error)),
        start_job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        (tmp_path / "run" / "curve.jsonl").touch()
        raise error
    record = read_record(tmp_path / "run")
    assert record["status"] == status
    if status == "failed":
        assert record["error"] == str(error)
        assert ("traceback" in record) == (not isinstance(error, UserError))


def test_a_line_about_a_file_is_shown_once_and_kept_in_the_log_of_each_run(tmp_path, capsys):
    line = f"{tmp_path}/checkpoint.pth: untrained"
    for name in ("one", "two"):
        with start_job(Settings(tmp_path / name), Card(), kind="knn"):
            logging.getLogger("msbreg").warning(line, extra={"once": True})
        assert line in (tmp_path / name / "log.txt").read_text()
    assert capsys.readouterr().err.count(line) == 1


def test_a_completed_run_with_another_checkpoint_is_not_skipped(tmp_path):
    settings = Settings(tmp_path / "run", finished="skip")
    with start_job(settings, Card(), kind="knn", inputs={"checkpoint": "aa"}):
        pass
    with (
        pytest.raises(UserError, match="the checkpoint file has changed"),
        start_job(settings, Card(), kind="knn", inputs={"checkpoint": "bb"}),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(AlreadyFinished),
        start_job(settings, Card(), kind="knn", inputs={"checkpoint": "aa"}),
    ):
        raise AssertionError("not reached")


def test_a_resumed_run_keeps_its_warnings_and_elapsed_time(tmp_path):
    with pytest.raises(UserError), start_job(Settings(tmp_path / "run"), Card(), kind="knn") as job:
        (tmp_path / "run" / "c.pth").touch()
        job.warn("mind this")
        raise UserError("stopped")
    first = read_record(tmp_path / "run")
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn", resume_file="c.pth"):
        pass
    second = read_record(tmp_path / "run")
    assert second["warnings"] == ["mind this"]
    assert second["started"] == first["started"]
    assert second["seconds"] >= first["seconds"]


def test_a_completed_run_is_rejected_or_skipped_but_never_overwritten(tmp_path):
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        pass
    with (
        pytest.raises(UserError, match="contains a completed run"),
        start_job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(AlreadyFinished),
        start_job(Settings(tmp_path / "run", finished="skip"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(UserError, match=r"with other settings \(epochs = 2 here\)"),
        start_job(Settings(tmp_path / "run", epochs=2, finished="skip"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")


def test_a_folder_with_another_kind_of_run_is_rejected(tmp_path):
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        pass
    with (
        pytest.raises(UserError, match="contains a run of knn, but this is svm"),
        start_job(Settings(tmp_path / "run"), Card(), kind="svm"),
    ):
        raise AssertionError("not reached")


def test_an_unfinished_run_without_a_checkpoint_starts_over(tmp_path):
    with pytest.raises(UserError), start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        (tmp_path / "run" / "neighbors.json").touch()
        raise UserError("stopped")
    with start_job(
        Settings(tmp_path / "run", epochs=2), Card(), kind="knn", resume_file="c.pth"
    ) as again:
        assert not again.resumed


def test_an_unfinished_run_resumes_only_with_the_same_settings(tmp_path):
    with pytest.raises(UserError), start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        (tmp_path / "run" / "c.pth").touch()
        raise UserError("stopped")
    with (
        pytest.raises(UserError, match="unfinished run with other settings: epochs = 2 here"),
        start_job(Settings(tmp_path / "run", epochs=2), Card(), kind="knn", resume_file="c.pth"),
    ):
        raise AssertionError("not reached")
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn", resume_file="c.pth") as again:
        assert again.resumed
    assert read_record(tmp_path / "run")["resumed_from"] == "failed"


def test_an_output_that_is_a_file_is_rejected(tmp_path):
    (tmp_path / "run").touch()
    with (
        pytest.raises(UserError, match="cannot be written"),
        start_job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")


@dataclass(frozen=True)
class Watched(Settings):
    harmless: ClassVar[frozenset[str]] = frozenset({"watch"})
    watch: int = 1


@pytest.mark.parametrize(
    "change",
    [{"name": "mine"}, {"save_seconds": 5.0}, {"trust_pickle": True}, {"watch": 9}],
    ids=str,
)
def test_settings_that_do_not_affect_results_may_change_on_resume(tmp_path, change):
    settings = Watched(tmp_path / "run")
    with pytest.raises(RunFailed), start_job(settings, Card(), kind="knn"):
        (tmp_path / "run" / "c.pth").touch()
        raise RunFailed("stopped")
    with start_job(replace(settings, **change), Card(), kind="knn", resume_file="c.pth") as again:
        assert again.resumed


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(UserError), start_job(Settings(tmp_path / "a" / "run"), Card(), kind="knn"):
        raise UserError("the data are not there")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_with_the_record(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError), start_job(Settings(tmp_path), Card(), kind="knn"):
        raise UserError("the data are not there")
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "record.json"}
    assert read_record(tmp_path)["status"] == "failed"


def test_hidden_files_of_the_user_are_kept(tmp_path):
    theirs = [tmp_path / name for name in (".notes.tmp", ".writable", ".old.lock")]
    for path in theirs:
        path.write_text("mine")
    with start_job(Settings(tmp_path), Card(), kind="knn"):
        pass
    assert all(path.read_text() == "mine" for path in theirs)


@pytest.mark.parametrize("name", [".lock", "log.txt"])
def test_symbolic_links_in_the_output_folder_are_not_followed(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("data")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(precious)
    with (
        pytest.raises(UserError, match="is a symbolic link"),
        start_job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
    assert precious.read_text() == "data"


def test_only_the_files_of_the_run_remain(tmp_path):
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        pass
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".lock", "log.txt", "record.json"}


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from msbreg.run.config import Card
from msbreg.run.files import RESERVED, write_atomically
from msbreg.run.job import start_job
from msbreg.run.options import main
from tests.msbreg.run.test_job import Settings

def run(config, card):
    with start_job(config, card, kind="knn") as job:
        size = RESERVED + 100_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVED, RESERVED))
        {body}

main(run, Settings(Path(sys.argv[1])), Card())
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'write_atomically(job.output / "out.json", bytes(size))',
            "out.json (161.7 KiB): File too",
        ),
        ('(job.output / "out.bin").write_bytes(bytes(size))', "a file in "),
    ],
    ids=["an atomic write", "any other write"],
)
def test_a_full_disk_fails_the_run_and_is_recorded(tmp_path, body, message):
    """A limit on the file size simulates a full disk."""
    code, _, errors = run_code(FULL_DISK.format(body=body), tmp_path / "run")
    assert code == 1, errors
    assert errors.count("error: cannot write ") == 1
    assert message in errors
    assert "Free some space" in errors
    assert "Traceback" not in errors
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith("cannot write ")


def test_an_unwritable_log_is_reported_once_and_the_run_continues(tmp_path, capsys):
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        (handler,) = [h for h in logging.getLogger("msbreg").handlers if hasattr(h, "baseFilename")]
        os.dup2(os.open("/dev/full", os.O_WRONLY), handler.stream.fileno())
        logging.getLogger("msbreg").info("one")
        logging.getLogger("msbreg").info("two")
    stderr = capsys.readouterr().err
    assert stderr.count("log.txt cannot be written") == 1
    assert "Traceback" not in stderr
    assert read_record(tmp_path / "run")["status"] == "done"


def test_a_stuck_run_is_recorded_as_interrupted(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from msbreg.run import signals
from msbreg.run.config import Card
from msbreg.run.job import start_job
from tests.msbreg.run.test_job import Settings
signals.SECONDS_TO_REACT = 0.2
with start_job(Settings(Path(sys.argv[1])), Card(), kind="knn") as job:
    job.stop.watched = True
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        pass
"""
    code, _, message = run_code(script, tmp_path / "run")
    assert code == 75, message
    assert read_record(tmp_path / "run")["status"] == "interrupted"


def test_of_simultaneous_starts_each_succeeds_or_names_the_other(tmp_path):
    words = [tmp_path / "run", time.time() + 1]
    starts = [Program("tests.msbreg.run.start_at", words) for _ in range(3)]
    outcomes = [program.wait() for program in starts]
    assert any(code == 0 for code, _, _ in outcomes)
    for code, _, message in outcomes:
        assert "Traceback" not in message
        if code:
            assert "another run is writing" in message or "contains a completed run" in message
    assert read_record(tmp_path / "run")["status"] == "done"


def test_a_record_without_its_entries_is_one_error(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text('{"schema": 1}')
    with (
        pytest.raises(UserError, match=r"record\.json"),
        start_job(Settings(tmp_path / "run"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")


@dataclass(frozen=True)
class NewSettings(Settings):
    added: ClassVar[dict] = {"metric": "cosine"}
    metric: str = "cosine"


def test_a_run_of_an_earlier_version_without_a_new_setting_is_recognized(tmp_path):
    with start_job(Settings(tmp_path / "run"), Card(), kind="knn"):
        pass
    with (
        pytest.raises(AlreadyFinished),
        start_job(NewSettings(tmp_path / "run", finished="skip"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
    with (
        pytest.raises(UserError, match=r"other settings \(metric = 'euclidean' here\)"),
        start_job(NewSettings(tmp_path / "run", metric="euclidean"), Card(), kind="knn"),
    ):
        raise AssertionError("not reached")
