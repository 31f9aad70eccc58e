"""Processes that decode images: they outlive a signal to the whole group, but not their parent."""

import atexit
import functools
import multiprocessing
import signal
from collections.abc import Generator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from msbreg.run.errors import RunFailed


def start_worker() -> None:
    """What a worker does first."""
    # torchrun and terminals signal the whole group; the loop decides when to stop, and saves first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)  # the workers are the parallelism


def from_workers(loader: DataLoader[Any]) -> Generator[Any]:
    """What the loader gives; its workers end with the generator, and at the latest with this process.

    An error's traceback keeps the frames that hold generators, and so their workers: who consumes this
    closes it (``contextlib.closing``). Where that is not done, Python would at exit send the workers a
    SIGTERM, which they ignore, and wait for them for ever; hence the last resort here.

    Raises:
        RunFailed: the workers cannot be started, for want of memory or of processes.
    """
    before = set(multiprocessing.active_children())
    try:
        batches = iter(loader)
    except OSError as error:
        raise RunFailed(
            f"the processes that decode images cannot be started: {error.strerror or error}.\n"
            "Give the same command again, with fewer --workers."
        ) from error
    finally:  # some may have been started
        workers = [child for child in multiprocessing.active_children() if child not in before]
        # After multiprocessing's own, which waits: what is registered last is called first.
        last_resort = functools.partial(_kill, workers)
        atexit.register(last_resort)
    try:
        yield from batches
    finally:
        del batches  # ends the workers, unless an error of the loader's holds it
        if not any(worker.is_alive() for worker in workers):
            atexit.unregister(last_resort)


def _kill(workers: Sequence[BaseProcess]) -> None:
    """For the end of the process: nothing is waited for but the system."""
    left = [worker for worker in workers if worker.is_alive()]
    if left:
        # PyTorch would raise in its handler that a worker was killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in left:
        worker.kill()
        worker.join()
