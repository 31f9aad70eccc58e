"""Raise the failure of one process in all processes.

If a process fails alone, the others wait for it and can only report a lost connection. Therefore
processes exchange failures before they wait for each other.
"""

import errno
from collections.abc import Sequence
from types import TracebackType

import torch

from msbreg.run import distributed
from msbreg.run.errors import Interrupted, RunFailed, UserError

# Phrases in RuntimeErrors that mean out of memory: PyTorch on the CPU, CUDA, its libraries, C++.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
)


class Agreement:
    """A context manager that raises in all processes if any process fails inside it.

    A process raises its own failure if it has one, else the first failure of another process. Requests
    are exchanged in the same message: on exit, ``requests[i]`` is true if it was true in any process. The
    body must not contain collectives. With one process, this does nothing.
    """

    def __init__(self, requests: Sequence[bool] = ()) -> None:
        self.requests = list(requests)

    def __enter__(self) -> "Agreement":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            return  # such as KeyboardInterrupt: this process ends immediately
        failed, *self.requests = distributed.any_of([error is not None, *self.requests])
        if failed and distributed.world_size() > 1:
            raise_first(error, distributed.gather_objects(to_other_processes(error)))


def raise_first(local: Exception | None, all_failures: Sequence[Exception | None]) -> None:
    """Raise the failure of this process if it has one, else the first of any process."""
    for error in (local, *all_failures):
        if error is not None:
            raise error


def to_other_processes(failure: Exception | None) -> Exception | None:
    """Convert a failure for the other processes: picklable, and naming the process that failed."""
    if failure is None or isinstance(failure, UserError | RunFailed | Interrupted):
        return failure
    where = f"process {distributed.rank()}"
    if is_out_of_memory(failure):
        return torch.OutOfMemoryError(f"{where}: {failure}")
    return RunFailed(f"{where} failed with {type(failure).__name__}: {failure}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that the device or the host ran out of memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(phrase in str(error) for phrase in OUT_OF_MEMORY)
