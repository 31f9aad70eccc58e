"""Tasks start when what they need is done; a failure skips only what depends on it."""

import pytest

from msbreg.run.errors import RunFailed, UserError
from tests.transfer.orchestration.small_tasks import task
from transfer.orchestration.task_queue import Failure, TaskQueue


def test_a_task_waits_for_what_it_needs_and_others_overtake_it():
    queue = TaskQueue([task("probe"), task("scores", "probe"), task("knn")])
    assert [queue.start().key, queue.start().key, queue.start()] == ["a/probe", "a/knn", None]
    queue.end("a/knn")
    assert queue.start() is None
    queue.end("a/probe")
    assert queue.start().key == "a/scores"
    queue.end("a/scores")
    assert queue.done == ["a/knn", "a/probe", "a/scores"]


def test_needs_that_are_not_among_the_tasks_count_as_done():
    assert TaskQueue([task("scores", "probe")]).start().key == "a/scores"


def test_a_failure_skips_what_depends_on_it_even_through_others():
    queue = TaskQueue([task("a"), task("b", "a"), task("c", "b"), task("d")])
    queue.start()
    queue.end("a/a", Failure("diverged"))
    assert queue.skipped == {"a/b": "a/a", "a/c": "a/a"}
    assert queue.start().key == "a/d"
    assert queue.start() is None


def test_the_message_names_what_failed_and_what_was_not_started():
    queue = TaskQueue([task("a"), task("b", "a")])
    queue.start()
    queue.end("a/a", Failure("diverged"))
    with pytest.raises(RunFailed, match=r"1 of 2\n  a/a: diverged\n  a/b: not started, .* a/a"):
        queue.raise_failures()


@pytest.mark.parametrize(("wrong", "kind"), [((True, True), UserError), ((True, False), RunFailed)])
def test_only_wrong_input_is_an_error_of_the_user(wrong, kind):
    queue = TaskQueue([task("a"), task("b")])
    for each in wrong:
        queue.end(queue.start().key, Failure("reason", wrong_input=each))
    with pytest.raises(kind):
        queue.raise_failures()


def test_nothing_is_raised_if_nothing_failed():
    queue = TaskQueue([task("a")])
    queue.end(queue.start().key)
    queue.raise_failures()
