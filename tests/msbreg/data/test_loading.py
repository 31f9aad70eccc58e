"""Batches from worker processes, and how failing, killed and stuck workers are reported."""

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
    """key -> (64, 64) filled with its square; raises an error for the key ``bad``."""

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
    """New child processes; other tests may have left some (joblib keeps its workers)."""
    return [child for child in multiprocessing.active_children() if child not in before]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_ordered_and_do_not_use_the_global_generator(workers):
    state = torch.get_rng_state()
    found = [batch[:, 0, 0].tolist() for batch in squares(workers=workers)]
    assert found == [[0, 1], [4, 9], [16, 25], [36, 49]]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_keeps_its_type_and_message(workers):
    with closing(squares(make=Squares(bad=3), workers=workers)) as batches:
        assert next(batches).shape == (2, 64, 64)
        with pytest.raises(UserError, match="^image 3 is truncated$"):
            next(batches)


def no_shared_memory() -> None:
    """Simulate a full /dev/shm: shared-memory files cannot grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


@dataclass(frozen=True)
class Parcel:
    tensors: tuple[torch.Tensor, ...]


@pytest.mark.parametrize("pack", [torch.stack, tuple, lambda items: {"a": items}, Parcel])
def test_full_shared_memory_is_reported_and_does_not_hang(monkeypatch, pack):
    monkeypatch.setattr(loading, "STUCK", 60)  # without the check, the batch never arrives
    with (
        closing(squares(on_start=no_shared_memory, collate=pack)) as batches,
        pytest.raises(RunFailed, match=r"does not fit into shared memory(.|\n)*--shm-size"),
    ):
        next(batches)


@dataclass(frozen=True)
class Stuck:
    def __call__(self, key: int) -> torch.Tensor:
        time.sleep(60)
        return torch.zeros(1)


def test_a_batch_that_never_arrives_fails_the_run(monkeypatch):
    monkeypatch.setattr(loading, "STUCK", 0.5)
    # How long PyTorch waits for the worker to end; it sleeps for a minute.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
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
def test_a_killed_worker_is_reported_with_a_remedy(error):
    assert "Run the same command with fewer --workers" in lost_worker(error)


def test_other_errors_are_not_attributed_to_a_killed_worker():
    assert lost_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost_worker(RuntimeError("Caught RuntimeError in DataLoader worker process 0.")) is None
    with pytest.raises(RuntimeError, match="mat1"), explaining_lost_workers():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_killed_worker_is_also_reported_in_the_middle_of_a_step():
    with (
        pytest.raises(RunFailed, match="data-loading worker was killed"),
        explaining_lost_workers(),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_workers_end_with_the_batches_even_if_a_traceback_keeps_them_alive():
    before = multiprocessing.active_children()

    def use():
        with closing(squares()) as batches:
            next(batches)
            assert len(children_since(before)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        use()
    assert error.value.__traceback__ is not None
    assert not children_since(before)


def test_signals_do_not_end_workers():
    before = multiprocessing.active_children()
    with closing(squares()) as batches:
        first = next(batches)
        (worker,) = children_since(before)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        assert len([first, *batches]) == 4


def test_workers_that_cannot_be_started_are_reported_with_a_remedy(monkeypatch):
    def fork():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with (
        closing(squares()) as batches,
        pytest.raises(RunFailed, match=r"cannot be started: Resource .*\.\n.* fewer --workers"),
    ):
        next(batches)
