"""A task waits for what it needs and for the verdict on its network."""

from dataclasses import replace

from tests.transfer.orchestration.small_tasks import plan
from transfer.orchestration.waiting import first_ready, waits_for


def test_others_overtake_a_task_that_waits(tmp_path):
    tasks = plan(tmp_path, ("scores", "probe"), ("knn",), ("probe",)).tasks
    scores, knn, probe = tasks
    assert first_ready(tasks, tasks, ()) is knn
    assert first_ready([scores, probe], tasks, {"a/knn"}) is probe
    assert first_ready([scores], tasks, {"a/knn"}) is None
    assert first_ready([scores], tasks, {"a/knn", "a/probe"}) is scores


def test_needs_that_are_no_tasks_are_not_waited_for(tmp_path):
    (scores,) = plan(tmp_path, ("scores", "probe")).tasks
    assert waits_for(scores, [scores]) == ()


def test_a_checkpoint_waits_for_its_own_gate_and_a_twin_for_all(tmp_path):
    gate, knn = plan(tmp_path, ("gate",), ("knn",)).tasks
    gate = replace(gate, script="gate")
    other, twin = replace(gate, network="b"), replace(knn, network="random-0")
    tasks = [gate, knn, other, twin]
    assert waits_for(knn, tasks) == ("a/gate",)
    assert waits_for(twin, tasks) == ("a/gate", "b/gate")
    assert waits_for(gate, tasks) == ()
