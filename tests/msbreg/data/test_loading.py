"""Batches from worker processes, and what is said when a worker fails, is lost or is stuck."""

import errno
import multiprocessing
import os
import resource
import signal
import time
from contextlib import closing
from dataclasses import dataclass

import pytest
import torch

from msbreg.data import loading
from msbreg.data.loading import explaining_lost_workers, lost_worker, stream
from msbreg.run.errors import RunFailed, UserError


@dataclass(frozen=True)
class Squares:
    """key -> (64, 64) of its square; an error at one key."""

    bad: int = -1

    def __call__(self, key: int) -> torch.Tensor:
        if key == self.bad:
            raise UserError(f"image {key} is truncated")
        return torch.full((64, 64), float(key**2))


def keys():
    return iter([[0, 1], [2, 3], [4, 5], [6, 7]])


def squares(**options):
    return stream(
        **{"make": Squares(), "keys": keys, "collate": torch.stack, "workers": 1} | options
    )


def children_since(before):
    """Other tests of this process may have left some of theirs (joblib keeps its own)."""
    return [child for child in multiprocessing.active_children() if child not in before]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_their_keys_and_draw_nothing(workers):
    state = torch.get_rng_state()
    found = [batch[:, 0, 0].tolist() for batch in squares(workers=workers)]
    assert found == [[0, 1], [4, 9], [16, 25], [36, 49]]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_it_is(workers):
    with closing(squares(make=Squares(bad=3), workers=workers)) as batches:
        assert next(batches).shape == (2, 64, 64)
        with pytest.raises(UserError, match="^image 3 is truncated$"):
            next(batches)


def no_shared_memory() -> None:
    """As in a container whose /dev/shm is full: files of shared memory cannot grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_full_shared_memory_is_reported_with_the_remedy_and_does_not_hang():
    with (
        closing(squares(on_start=no_shared_memory)) as batches,
        pytest.raises(RunFailed, match=r"does not fit into shared memory(.|\n)*--shm-size"),
    ):
        next(batches)


@dataclass(frozen=True)
class Stuck:
    def __call__(self, key: int) -> torch.Tensor:
        time.sleep(60)
        return torch.zeros(1)


def test_a_batch_that_never_arrives_ends_the_run(monkeypatch):
    monkeypatch.setattr(loading, "STUCK", 0.5)
    with (
        closing(squares(make=Stuck())) as batches,
        pytest.raises(RunFailed, match="no batch arrived from the worker processes"),
    ):
        next(batches)


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        ConnectionResetError(104, "Connection reset by peer"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    ],
)
def test_a_lost_worker_is_reported_with_what_to_do(error):
    assert "Give the same command again with fewer --workers" in lost_worker(error)


def test_other_errors_are_not_taken_for_a_lost_worker():
    assert lost_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost_worker(RuntimeError("Caught RuntimeError in DataLoader worker process 0.")) is None
    with pytest.raises(RuntimeError, match="mat1"), explaining_lost_workers():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_loss_that_appears_in_the_middle_of_a_step_is_reported_likewise():
    with (
        pytest.raises(RunFailed, match="data-loading worker was killed"),
        explaining_lost_workers(),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_workers_end_with_the_batches_whatever_a_traceback_holds():
    before = multiprocessing.active_children()

    def use():
        with closing(squares()) as batches:
            next(batches)
            assert len(children_since(before)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as held:
        use()
    assert held.value.__traceback__ is not None
    assert not children_since(before)


def test_a_group_signal_does_not_end_workers():
    before = multiprocessing.active_children()
    with closing(squares()) as batches:
        first = next(batches)
        (worker,) = children_since(before)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        assert len([first, *batches]) == 4


def test_workers_that_cannot_be_started_are_reported_with_what_to_do(monkeypatch):
    def fork():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with (
        closing(squares()) as batches,
        pytest.raises(RunFailed, match=r"cannot be started: Resource .*\.\n.* fewer --workers"),
    ):
        next(batches)
