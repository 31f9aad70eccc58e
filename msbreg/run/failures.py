"""A failure of one of several processes, raised in all of them.

A process that fails alone leaves the others waiting for it; all that they could report is a lost
connection. Here processes exchange who has failed before they wait for each other.
"""

import errno
from collections.abc import Sequence
from types import TracebackType

import torch

from msbreg.run import distributed
from msbreg.run.errors import Interrupted, RunFailed, UserError

# What RuntimeErrors say of memory: PyTorch on the CPU, CUDA, its libraries, C++.
MEMORY_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
)


class Agreement:
    """A context that ends in all processes alike: if one fails inside, each raises.

    A process raises its own failure, or else the first that another one reports. The wishes travel in
    the same message; afterwards ``wishes[i]`` says whether any process has the i-th. What is inside
    must contain no collectives. With one process it does nothing.
    """

    def __init__(self, wishes: Sequence[bool] = ()) -> None:
        self.wishes = list(wishes)

    def __enter__(self) -> "Agreement":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            return  # Ctrl-C, say: this process ends at once
        failed, *self.wishes = distributed.any_of([error is not None, *self.wishes])
        if failed and distributed.world_size() > 1:
            raise_first(error, distributed.gather_objects(as_told(error)))


def raise_first(failure: Exception | None, told: Sequence[Exception | None]) -> None:
    """Raise this process's failure, or else the first that another one reports, if any."""
    for error in (failure, *told):
        if error is not None:
            raise error


def as_told(failure: Exception | None) -> Exception | None:
    """The failure in the form that other processes raise: it can be pickled, and names the process."""
    if failure is None or isinstance(failure, UserError | RunFailed | Interrupted):
        return failure
    where = f"process {distributed.rank()}"
    if is_of_memory(failure):
        return torch.OutOfMemoryError(f"{where}: {failure}")
    return RunFailed(f"{where} failed with {type(failure).__name__}: {failure}")


def is_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on the device or on the machine."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in MEMORY_WORDS)
