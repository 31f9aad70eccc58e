"""Tasks in processes of their own: side by side, each in its place, stopped together."""

import json
import os
import signal
import threading
import time

import pytest
from transfer.orchestration.task_queue import Failure

from msbreg.run.errors import Interrupted
from tests.transfer.orchestration.small_tasks import command, task
from transfer.orchestration.launchers.local_launcher import InThisProcess, SideBySide
from transfer.orchestration.launchers.side_by_side import Place, places
from transfer.orchestration.launchers.torchrun_launcher import Torchrun


def test_tasks_run_at_the_same_time_each_with_its_own_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    where = places(2, gpus=["4", "7"], cores=6)
    ended = []
    queue = SideBySide(command(tmp_path), where).launch(
        [task("meets-1"), task("meets-2")], lambda task: ended.append(task.key)
    )
    assert sorted(queue.done) == sorted(ended) == ["a/meets-1", "a/meets-2"]
    facts = [json.loads((tmp_path / "jobs" / f"a-meets-{i}.json").read_text()) for i in (1, 2)]
    assert sorted(fact["gpus"] for fact in facts) == ["4", "7"]
    assert [fact["threads"] for fact in facts] == ["3", "3"]


def test_a_task_starts_after_what_it_needs_although_a_place_is_free(tmp_path):
    tasks = [task("probe"), task("scores", "probe")]
    SideBySide(command(tmp_path), [Place(), Place()]).launch(tasks, lambda task: None)
    facts = json.loads((tmp_path / "jobs" / "a-scores.json").read_text())
    assert facts["done"] == ["a-probe"]


def test_a_failed_task_leaves_the_others_running_and_its_message_is_kept(tmp_path):
    tasks = [task("fails"), task("after", "fails"), task("wrong"), task("knn")]
    queue = SideBySide(command(tmp_path), [Place()]).launch(tasks, lambda task: None)
    assert queue.done == ["a/knn"]
    assert queue.skipped == {"a/after": "a/fails"}
    log = tmp_path / "jobs" / "a-fails.txt"
    assert queue.failed["a/fails"] == Failure(f"the disk is full (see {log})")
    assert queue.failed["a/wrong"].wrong_input


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_task_save_and_none_is_left(tmp_path, number):
    jobs = tmp_path / "jobs"
    tasks = [task("forever-1"), task("forever-2"), task("knn")]

    def signal_when_both_run() -> None:
        while len(list(jobs.glob("*.ready"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    launcher = SideBySide(command(tmp_path), [Place(), Place()])
    waiting = threading.Thread(target=signal_when_both_run, daemon=True)
    waiting.start()
    with pytest.raises(Interrupted, match="all tasks were stopped"):
        launcher.launch(tasks, lambda task: None)
    assert len(list(jobs.glob("*.saved"))) == 2
    assert not (jobs / "a-knn.running").exists()


def test_torchrun_starts_a_group_of_processes_for_each_task(tmp_path):
    queue = Torchrun(command(tmp_path), [Place()], processes=2).launch(
        [task("meets-itself")], lambda task: None
    )
    log = (tmp_path / "jobs" / "a-meets-itself.txt").read_text()
    # Both processes have the same name here, so the second never sees another one's file.
    assert queue.failed or queue.done, log


def test_a_failure_in_this_process_does_not_stop_the_others():
    ran = []

    def run(task) -> None:
        ran.append(task.key)
        if task.name == "fails":
            raise ValueError("a defect")

    tasks = [task("fails"), task("after", "fails"), task("knn")]
    queue = InThisProcess(run).launch(tasks, lambda task: None)
    assert ran == ["a/fails", "a/knn"]
    assert queue.failed == {"a/fails": Failure("a defect")}


def test_an_interruption_in_this_process_ends_the_suite():
    def run(task) -> None:
        raise Interrupted("SIGTERM after step 3")

    with pytest.raises(Interrupted, match="after step 3"):
        InThisProcess(run).launch([task("knn"), task("svm")], lambda task: None)


def test_places_share_the_gpus_if_there_are_too_few():
    assert [place.gpus for place in places(3, gpus=["0", "1"])] == [(), (), ()]
