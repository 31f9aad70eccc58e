"""Losses, weights and memory that end a training, found early and reported with the remedy."""

import contextlib
import errno
import math
import os
import resource
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msbreg.run import distributed
from msbreg.run.errors import RunFailed
from msbreg.run.failures import MEMORY_WORDS, is_of_memory, raise_first

if TYPE_CHECKING:
    from msbreg.train.state import State

DECODING = (
    "out of memory in a process that decodes images.\n"
    "Give the same command again with fewer --workers, or 0 to decode in the training process."
)


class NotFinite(RunFailed):
    """Numbers that a network computes are infinite or undefined; the first line says which."""


def diverged(step: int, what: str, advice: str) -> RunFailed:
    """The error of a training whose numbers became infinite or undefined."""
    return RunFailed(f"training diverged at step {step}: {what}.\n{advice}")


@contextlib.contextmanager
def named(step: int, advice: str) -> Iterator[None]:
    """Turn a floating-point error of a network into the error of a training that diverged.

    Detectors raise FloatingPointError on proposals that are not finite, before there is a loss.
    """
    try:
        yield
    except (FloatingPointError, NotFinite) as error:
        raise diverged(step, str(error).partition("\n")[0].rstrip("."), advice) from error


class Readings:
    """The terms of the losses, kept on the device until they are read.

    Reading waits for the device, so it happens every few steps; a term that is not finite is then
    reported with the step at which it appeared.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.latest: dict[str, float] = {}
        self._now: dict[str, Tensor] = {}
        self._waiting: list[tuple[int, list[str], Tensor]] = []
        self._read: list[dict[str, float]] = []

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one part to those of the step."""
        for name, value in terms.items():
            value = value.detach().float()
            self._now[name] = self._now[name] + value if name in self._now else value

    def close_step(self, step: int) -> None:
        """The step's terms are complete."""
        self._waiting.append((step, list(self._now), torch.stack(list(self._now.values()))))
        self._now = {}

    def read(self) -> None:
        """Fetch all terms that wait on the device.

        Raises:
            RunFailed: one of them is not finite.
        """
        waiting, self._waiting = self._waiting, []
        for step, names, values in waiting:
            self.latest = dict(zip(names, values.tolist(), strict=True))
            bad = [f"{n} = {v}" for n, v in self.latest.items() if not math.isfinite(v)]
            if bad:
                raise diverged(step, ", ".join(bad), self.advice)
            self._read.append(self.latest)

    def check(self, state: "State") -> None:
        """Read what waits, and add all that was read to the sums of the row of the curve.

        Raises:
            RunFailed: a term is not finite, in any process.
        """
        failure: RunFailed | None = None
        try:
            self.read()
        except RunFailed as error:
            failure = error
        raise_first(failure, distributed.gather_objects(failure))
        for terms in self._read:
            for name, value in terms.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            state.counted += 1
        self._read = []


def check_finite(weights: Mapping[str, Any], step: int, advice: str) -> None:
    """Check weights before they are saved: the last step may ruin them after a loss that is finite.

    Raises:
        RunFailed: a tensor is not finite, in any process.
    """
    bad = [
        name
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all()
    ]
    everywhere = [name for names in distributed.gather_objects(bad) for name in names]
    if everywhere:
        count = f"{len(everywhere)} tensor" + ("s are" if len(everywhere) > 1 else " is")
        raise diverged(step, f"{count} not finite, the first {everywhere[0]}", advice)


# ---- Memory


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Say what to lower when memory runs out, here or in a process that decodes images.

    Raises:
        RunFailed: memory ran out; any other error passes.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if "in DataLoader worker process" in str(error):
            _raise_of_worker(error)
        if not is_of_memory(error):
            raise
        detail = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise RunFailed(f"{advice}\n({detail})") from error


def _raise_of_worker(error: Exception) -> None:
    """Raise if a living worker's error, whose text holds its traceback, is one of memory."""
    last = str(error).strip().rpartition("\n")[2]
    words = (*MEMORY_WORDS, "MemoryError", os.strerror(errno.ENOMEM))
    if any(word in last for word in words):
        raise RunFailed(f"{DECODING}\n({last[:200]})") from error


def memory_used(device: torch.device) -> str:
    """The most memory that this process has used, on its device."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
