"""Load batches in worker processes; the only module that uses PyTorch's DataLoader.

Errors raised in a worker keep their type, killed workers and full shared memory are reported with a remedy,
and no worker outlives the program.
"""

import atexit
import contextlib
import dataclasses
import functools
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from msbreg.run.errors import RunFailed, UserError

T = TypeVar("T")
STUCK = 600.0
"""Seconds to wait for a batch before the workers count as stuck."""
_REMEDY = (
    "Run the same command with fewer --workers (transfer/linear.py: --loading), or with 0 to decode in\n"
    "the training process. In a container, increase the shared memory (docker run --shm-size 8g)."
)


def stream(
    make: Callable[[Any], Any],
    keys: Callable[[], Iterator[list[Any]]],
    collate: Callable[[list[Any]], T],
    *,
    workers: int,
    on_start: Callable[[], None] = lambda: None,
    pin_memory: bool = False,
    ahead: int = 2,
) -> Generator[T]:
    """Yield batches in the order of their keys. Close the generator (``contextlib.closing``) after use.

    The global random generators are not used.

    Args:
        make: key -> item. Runs in the workers; must be picklable if they are spawned.
        keys: returns an iterator over the keys of each batch.
        collate: items -> batch. Also runs in the workers.
        workers: number of worker processes; 0 makes the batches in this process.
        on_start: called in each worker when it starts.
        pin_memory: copy batches to pinned memory, for faster transfer to a GPU.
        ahead: number of batches that each worker prepares in advance.

    Raises:
        UserError, RunFailed: raised by ``make``, for example for an unreadable image.
        RunFailed: a worker cannot be started or was killed, shared memory is full, or no batch arrived for
            ``STUCK`` seconds.
    """
    loader: DataLoader[Any] = DataLoader(
        _Items(make),
        batch_sampler=_Keys(keys),
        num_workers=workers,
        collate_fn=_Collate(collate),
        pin_memory=pin_memory,
        worker_init_fn=functools.partial(_start_worker, on_start),
        prefetch_factor=ahead if workers else None,
        timeout=STUCK if workers else 0,
        generator=torch.Generator(),  # by default, the loader uses the global generator
    )
    for batch in _from_workers(loader):
        if isinstance(batch, UserError | RunFailed):
            raise batch
        yield batch


class _Items(Dataset[Any]):
    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.make(key)
        except (UserError, RunFailed) as error:
            return (
                error  # as a value: exceptions raised in a worker arrive as a traceback in a string
            )


class _Keys(Sampler[list[Any]]):
    def __init__(self, keys: Callable[[], Iterator[list[Any]]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Any]]:
        return self.keys()


@dataclasses.dataclass(frozen=True)
class _Collate:
    """Collates items and moves the batch to shared memory, or returns the first error among the items."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        for item in items:
            if isinstance(item, UserError | RunFailed):
                return item
        batch = self.collate(items)
        if get_worker_info() is None:
            return batch
        # The thread of the queue would also do this, but if it runs out of space, the batch is silently
        # lost and the main process waits forever.
        try:
            for tensor in _tensors(batch):
                tensor.share_memory_()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            return RunFailed(
                f"a batch does not fit into shared memory, /dev/shm ({reason}).\n{_REMEDY}"
            )
        return batch


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dataclasses, mappings, lists and tuples."""
    inside: Iterable[Any] = ()
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        inside = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = [getattr(value, field.name) for field in dataclasses.fields(value)]
    for part in inside:
        yield from _tensors(part)


def _start_worker(on_start: Callable[[], None], _: int) -> None:
    # torchrun and terminals signal all processes of the group, but the training loop decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)  # the workers are the parallelism
    on_start()


def _from_workers(loader: DataLoader[Any]) -> Generator[Any]:
    """Iterate over the loader; its workers end with the generator, or at the latest with this process.

    The traceback of an error keeps generators, and thus workers, alive. If the generator is not closed,
    Python sends SIGTERM to the workers at exit, which they ignore, and waits for them forever. They are
    therefore killed at exit.
    """
    before = set(multiprocessing.active_children())
    try:
        batches = iter(loader)
    except OSError as error:
        raise RunFailed(
            f"the data-loading workers cannot be started: {error.strerror or error}.\n"
            "Run the same command with fewer --workers."
        ) from error
    finally:  # some workers may have been started
        workers = [child for child in multiprocessing.active_children() if child not in before]
        # Exit handlers run in reverse order, so this one runs before multiprocessing's, which waits.
        kill_workers = functools.partial(_kill, workers)
        atexit.register(kill_workers)
    try:
        with explaining_lost_workers():
            yield from batches
    finally:
        del batches  # ends the workers, unless an error of the loader keeps it alive
        if not any(worker.is_alive() for worker in workers):
            atexit.unregister(kill_workers)


@contextlib.contextmanager
def explaining_lost_workers() -> Iterator[None]:
    """Turn errors caused by a lost worker into RunFailed with a remedy.

    PyTorch raises one of these errors in a signal handler, so it can appear anywhere in a training step.
    Enclose the whole loop over the batches in this context.
    """
    try:
        yield
    except (EOFError, ConnectionError, RuntimeError) as error:
        if (reason := lost_worker(error)) is None:
            raise
        raise RunFailed(reason) from error


def lost_worker(error: BaseException) -> str | None:
    """The message for an error caused by a killed or stuck worker; None for any other error.

    The type of the error depends on what the worker was doing.
    """
    text = str(error)
    if isinstance(error, RuntimeError):
        if text.startswith("DataLoader timed out"):
            return f"no batch arrived from the worker processes for {STUCK:.0f} seconds.\n{_REMEDY}"
        # "... in DataLoader worker process 0" is different: an error raised by a living worker.
        if not text.startswith("DataLoader worker (pid"):
            return None
    return (
        f"a data-loading worker was killed ({type(error).__name__}: {text}).\n"
        "The usual cause is lack of memory or of space in /dev/shm.\n"
        f"{_REMEDY}"
    )


def _kill(workers: Sequence[BaseProcess]) -> None:
    """Kill the remaining workers at exit."""
    alive = [worker for worker in workers if worker.is_alive()]
    if alive:
        # Otherwise, PyTorch's signal handler raises an error about killed workers.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in alive:
        worker.kill()
        worker.join()
