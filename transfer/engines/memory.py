"""Memory: how much was needed, and what to lower where it does not suffice."""

import contextlib
import resource
from collections.abc import Iterator

import torch

from msbreg.errors import UserError
from transfer.scenes.workers import lost_worker


@contextlib.contextmanager
def memory_advice() -> Iterator[None]:
    """Say what to lower where the memory does not suffice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and (lost := lost_worker(error)):
            raise UserError(lost) from error
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            "the memory does not suffice for a batch. In this order: --accumulate 2 (or more) passes "
            "it in parts,\n--amp bf16 needs about half, more processes (torchrun) share "
            "SOLVER.IMS_PER_BATCH; smaller\nINPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN are another "
            "protocol. The last checkpoint is kept."
        ) from error


def memory_used(device: torch.device) -> str:
    """The most memory that this process had, on its device."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
