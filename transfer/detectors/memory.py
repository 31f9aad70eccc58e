"""Memory: how much was needed, and what to lower where it does not suffice."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

import torch
from fvcore.common.config import CfgNode

from msbreg.run.errors import RunFailed
from transfer.detectors.decoding import lost_worker
from transfer.detectors.solver import Plan

_WORDS = (  # of RuntimeErrors: PyTorch on the CPU, CUDA, its libraries, C++
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
)
TESTING = (
    "the memory does not suffice to evaluate an image (they pass one by one).\n"
    "Smaller INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST or MODEL.RPN.POST_NMS_TOPK_TEST need less, and are "
    "another protocol: give them\nwith --eval-only, --checkpoint and a new --output."
)
DECODING = (
    "the memory does not suffice in a process that decodes images.\n"
    "Give the same command again, with fewer --workers, or 0 to decode in the process that trains."
)
MOVING = (
    "the memory of the device does not suffice for the detector alone.\n"
    "See with nvidia-smi whether another program uses it, or give another --device."
)


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Say what to lower where the memory does not suffice, here or in a process that decodes.

    Raises:
        RunFailed: it does not; anything else passes.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if type(error) is RuntimeError and (lost := lost_worker(error)):
            raise RunFailed(lost) from error
        if "in DataLoader worker process" in str(error):
            _raise_of_worker(error)
        if not is_of_memory(error):
            raise
        detail = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise RunFailed(f"{advice}\n({detail})") from error


def _raise_of_worker(error: Exception) -> None:
    """Say it if a living worker's error, whose text holds its traceback, is one of memory."""
    last = str(error).strip().rpartition("\n")[2]
    words = (*_WORDS, "MemoryError", os.strerror(errno.ENOMEM))
    if any(word in last for word in words):
        raise RunFailed(f"{DECODING}\n({last[:200]})") from error


def is_of_memory(error: Exception) -> bool:
    """Whether it says that memory, of the device or of the machine, does not suffice."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in _WORDS)


def training_advice(config: CfgNode, *, images: int, plan: Plan) -> str:
    """What to lower in training, the change that alters least first.

    Args:
        images: of a process's batch.
    """
    solver, parts = config.SOLVER, plan.accumulate
    more = next((n for n in range(parts + 1, images + 1) if images % n == 0), None)
    lines = [f"the memory does not suffice to train on {images // parts} images at a time."]
    if more:
        lines.append(
            f"  --accumulate {more} passes a batch in {more} parts: the same step but for BatchNorm"
        )
    if not plan.bf16:
        lines.append("  --amp bf16 needs about half")
    if images > 1:
        lines.append("  more processes (torchrun) share SOLVER.IMS_PER_BATCH")
        lines.append(
            f"  SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH // 2} SOLVER.BASE_LR {solver.BASE_LR / 2:g} "
            "is the linear rule's smaller batch; MAX_ITER and STEPS double"
        )
    lines.append("  smaller INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN, another protocol, too")
    lines.append("Other settings need a new --output; the same command continues this run.")
    return "\n".join(lines)


def memory_used(device: torch.device) -> str:
    """The most memory that this process had, on its device."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
