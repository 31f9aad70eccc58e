"""Batches made by worker processes: the one place that uses PyTorch's DataLoader.

What goes wrong with worker processes is handled here once: an error in a worker arrives as the error
that it is, a worker that was killed and shared memory that is full are reported with the remedy, and
no worker outlives the program.
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
"""Seconds after which a batch that does not arrive is given up."""
_REMEDY = (
    "Give the same command again with fewer --workers, or 0 to decode in the training process; in a\n"
    "container, give it more shared memory (docker run --shm-size 8g)."
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
    """Batches, in the order of their keys; to be closed (``contextlib.closing``) when done with.

    Nothing is drawn from the global random generators, in this process or in a worker's name.

    Args:
        make: key -> item; runs in the workers, so it is sent by pickle where they are spawned.
        keys: starts an iterator of the keys of each batch.
        collate: items -> batch; also runs in the workers.
        workers: processes; 0 makes the batches in this one.
        on_start: called in each worker when it starts.
        pin_memory: copy batches to pinned memory, from which a GPU reads faster.
        ahead: batches that each worker prepares in advance.

    Raises:
        UserError, RunFailed: raised by ``make``, such as for an image that cannot be read.
        RunFailed: workers cannot be started, one was killed, shared memory is full, or no batch arrived
            for ``STUCK`` seconds.
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
        generator=torch.Generator(),  # else the loader draws its workers' seeds from the global one
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
            return error  # as a value: a worker's exception would reach the user as a traceback


class _Keys(Sampler[list[Any]]):
    def __init__(self, keys: Callable[[], Iterator[list[Any]]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Any]]:
        return self.keys()


@dataclasses.dataclass(frozen=True)
class _Collate:
    """The batch, its tensors in shared memory; or the first error among the items."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        for item in items:
            if isinstance(item, UserError | RunFailed):
                return item
        batch = self.collate(items)
        if get_worker_info() is None:
            return batch
        # The queue's thread would do it as well, but where it fails for want of space, the batch is lost
        # without a word and the main process waits for ever.
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
    # torchrun and terminals signal the whole group; the loop decides when to stop, and saves first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)  # the workers are the parallelism
    on_start()


def _from_workers(loader: DataLoader[Any]) -> Generator[Any]:
    """What the loader gives; its workers end with the generator, and at the latest with this process.

    An error's traceback keeps the frames that hold generators, and so their workers, alive. Where the
    generator is not closed, Python would at exit send the workers a SIGTERM, which they ignore, and
    wait for them for ever; hence the last resort.
    """
    before = set(multiprocessing.active_children())
    try:
        batches = iter(loader)
    except OSError as error:
        raise RunFailed(
            f"the processes that decode images cannot be started: {error.strerror or error}.\n"
            "Give the same command again with fewer --workers."
        ) from error
    finally:  # some may have been started
        workers = [child for child in multiprocessing.active_children() if child not in before]
        # After multiprocessing's own, which waits: what is registered last is called first.
        last_resort = functools.partial(_kill, workers)
        atexit.register(last_resort)
    try:
        with naming_lost_workers():
            yield from batches
    finally:
        del batches  # ends the workers, unless an error of the loader's holds it
        if not any(worker.is_alive() for worker in workers):
            atexit.unregister(last_resort)


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Turn the errors by which a lost worker shows into RunFailed, with what to do.

    PyTorch raises one of them in the handler of a signal, so that it can appear in the middle of a step:
    a loop over batches is inside one of these as a whole.
    """
    try:
        yield
    except (EOFError, ConnectionError, RuntimeError) as error:
        if (reason := lost_worker(error)) is None:
            raise
        raise RunFailed(reason) from error


def lost_worker(error: BaseException) -> str | None:
    """What to do if an error says that a worker was killed or is stuck; else None.

    Which error it is depends on what the worker was doing.
    """
    text = str(error)
    if isinstance(error, RuntimeError):
        if text.startswith("DataLoader timed out"):
            return f"no batch arrived from the worker processes for {STUCK:.0f} seconds.\n{_REMEDY}"
        # "... in DataLoader worker process 0" is another: an error that happened in a living worker.
        if not text.startswith("DataLoader worker (pid"):
            return None
    return (
        f"a data-loading worker was killed ({type(error).__name__}: {text}).\n"
        "The usual cause is that memory ran out, in total or in /dev/shm.\n"
        f"{_REMEDY}"
    )


def _kill(workers: Sequence[BaseProcess]) -> None:
    """For the end of the program: do not wait for anything but the system."""
    left = [worker for worker in workers if worker.is_alive()]
    if left:
        # PyTorch would raise in its handler that a worker was killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in left:
        worker.kill()
        worker.join()
