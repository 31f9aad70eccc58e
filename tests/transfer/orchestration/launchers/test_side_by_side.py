"""Tasks in processes of their own: side by side, each in its place, stopped together."""

import json
import os
import signal
import threading
import time

import pytest

from msbreg.run.errors import Interrupted
from tests.transfer.orchestration.small_tasks import command, nothing, plan
from transfer.orchestration.launchers.local_launcher import SideBySide, Torchrun
from transfer.orchestration.launchers.side_by_side import Place, places


def launch(launcher, folder, *tasks, after_each=nothing):
    return launcher.launch(plan(folder, *tasks), folder, anyway=False, after_each=after_each)


def facts_of(folder, name) -> dict:
    return json.loads((folder / "jobs" / f"a-{name}.json").read_text())


def test_tasks_run_at_the_same_time_each_with_its_own_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    where = places(2, gpus=["4", "7"], cores=6)
    ended = []
    progress = launch(
        SideBySide(command(tmp_path), where),
        *(tmp_path, ("meets-1",), ("meets-2",)),
        after_each=lambda: ended.append(1),
    )
    assert sorted(progress.keys("done")) == ["a/meets-1", "a/meets-2"]
    assert len(ended) == 2
    facts = [facts_of(tmp_path, f"meets-{i}") for i in (1, 2)]
    assert sorted(fact["gpus"] for fact in facts) == ["4", "7"]
    assert [fact["threads"] for fact in facts] == ["3", "3"]


def test_a_task_starts_after_what_it_needs_although_a_place_is_free(tmp_path):
    launcher = SideBySide(command(tmp_path), [Place(), Place()])
    launch(launcher, tmp_path, ("probe",), ("scores", "probe"))
    assert facts_of(tmp_path, "scores")["done"] == ["a-probe"]


def test_a_failed_task_leaves_the_others_running_and_its_message_is_kept(tmp_path):
    launcher = SideBySide(command(tmp_path), [Place()])
    tasks = (("fails",), ("after", "fails"), ("breaks",), ("knn",))
    progress = launch(launcher, tmp_path, *tasks)
    assert progress.keys("failed") == ["a/fails", "a/breaks"]
    assert (progress.keys("not run"), progress.keys("done")) == (["a/after"], ["a/knn"])
    log = tmp_path / "jobs" / "a-fails.txt"
    assert progress.reasons["a/fails"] == f"the disk is full (see {log})"
    last = "exit code 1: ModuleNotFoundError: No module named 'no_such_module'"
    assert progress.reasons["a/breaks"].startswith(f"{last} (see ")
    assert progress.reasons["a/after"] == "it needs a/fails, which failed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_task_save_and_starts_no_other(tmp_path, number):
    jobs = tmp_path / "jobs"

    def signal_when_both_run() -> None:
        while len(list(jobs.glob("*.ready"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    launcher = SideBySide(command(tmp_path), [Place(), Place()])
    threading.Thread(target=signal_when_both_run, daemon=True).start()
    with pytest.raises(Interrupted, match="all tasks were stopped; run the same command"):
        launch(launcher, tmp_path, ("forever-1",), ("forever-2",), ("knn",))
    assert len(list(jobs.glob("*.saved"))) == 2
    assert not (jobs / "a-knn.running").exists()


def test_torchrun_starts_a_group_of_processes_for_each_task(tmp_path):
    progress = launch(Torchrun(command(tmp_path), [Place()], 2), tmp_path, ("meets",))
    assert progress.ends == {"a/meets": "done"}
    assert [facts_of(tmp_path, f"meets-rank{rank}")["rank"] for rank in (0, 1)] == ["0", "1"]


def test_places_share_the_gpus_if_there_are_too_few():
    assert [place.gpus for place in places(3, gpus=["0", "1"])] == [(), (), ()]
