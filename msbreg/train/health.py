"""Detect non-finite losses and weights, and report them and out-of-memory errors with a remedy."""

import contextlib
import errno
import math
import os
import resource
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msbreg.checkpoints.layouts.tensors import all_finite
from msbreg.run import distributed
from msbreg.run.errors import RunFailed
from msbreg.run.failures import OUT_OF_MEMORY, is_out_of_memory, raise_first

if TYPE_CHECKING:
    from msbreg.train.state import State

DECODING = (
    "out of memory in a data-loading worker.\n"
    "Run the same command with fewer --workers, or with 0 to decode in the training process."
)


class NotFinite(RunFailed):
    """Outputs of a network are infinite or NaN; the first line of the message says which."""


class Diverged(RunFailed):
    """Training diverged: a loss, a weight or an output is not finite."""


def diverged(step: int, what: str, advice: str) -> Diverged:
    """The error to raise when training diverged: ``what`` is not finite."""
    return Diverged(f"training diverged at step {step}: {what}.\n{advice}")


@contextlib.contextmanager
def explaining_divergence(step: int, advice: str) -> Iterator[None]:
    """Turn FloatingPointError, LinAlgError and NotFinite into Diverged with the step and the advice.

    Detectors raise FloatingPointError for non-finite proposals, before a loss is computed. Whitening raises
    LinAlgError for a covariance that has no inverse, as that of collapsed embeddings.
    """
    try:
        yield
    except (FloatingPointError, NotFinite, torch.linalg.LinAlgError) as error:
        raise diverged(step, str(error).partition("\n")[0].rstrip("."), advice) from error


class LossMeter:
    """Collects loss terms on the device and reads them every few steps.

    Reading waits for the device. A non-finite term is reported with the step at which it appeared.

    Attributes:
        latest: the terms of the last step that was read.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.latest: dict[str, float] = {}
        self._current: dict[str, Tensor] = {}
        self._unread: list[tuple[int, list[str], Tensor]] = []
        self._read: list[dict[str, float]] = []

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one part to those of the current step."""
        for name, value in terms.items():
            value = value.detach().float()
            self._current[name] = self._current[name] + value if name in self._current else value

    def end_step(self, step: int) -> None:
        """Complete the terms of the current step."""
        self._unread.append((step, list(self._current), torch.stack(list(self._current.values()))))
        self._current = {}

    def read(self) -> None:
        """Read all terms that are still on the device.

        Raises:
            Diverged: a term is not finite.
        """
        unread, self._unread = self._unread, []
        for step, names, values in unread:
            self.latest = dict(zip(names, values.tolist(), strict=True))
            bad = [f"{n} = {v}" for n, v in self.latest.items() if not math.isfinite(v)]
            if bad:
                raise diverged(step, ", ".join(bad), self.advice)
            self._read.append(self.latest)

    def flush(self, state: "State") -> None:
        """Read all remaining terms and add everything read so far to ``state.sums``.

        Raises:
            Diverged: a term is not finite, in any process.
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
    """Check weights before they are saved: an update can break them although its loss was finite.

    Raises:
        Diverged: a tensor is not finite, in any process.
    """
    bad = [
        name
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not all_finite(value)
    ]
    all_bad = [name for names in distributed.gather_objects(bad) for name in names]
    if all_bad:
        count = f"{len(all_bad)} tensor" + ("s are" if len(all_bad) > 1 else " is")
        raise diverged(step, f"{count} not finite, starting with {all_bad[0]}", advice)


# ---- Memory


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn out-of-memory errors, here or in a data-loading worker, into RunFailed with advice.

    Raises:
        RunFailed: memory ran out. Other errors pass through unchanged.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if "in DataLoader worker process" in str(error):
            _raise_if_worker_out_of_memory(error)
        if not is_out_of_memory(error):
            raise
        detail = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise RunFailed(f"{advice}\n({detail})") from error


def _raise_if_worker_out_of_memory(error: Exception) -> None:
    """Look for an out-of-memory error in the worker's traceback, which is in the error's text."""
    last = str(error).strip().rpartition("\n")[2]
    phrases = (*OUT_OF_MEMORY, "MemoryError", os.strerror(errno.ENOMEM))
    if any(phrase in last for phrase in phrases):
        raise RunFailed(f"{DECODING}\n({last[:200]})") from error


def memory_used(device: torch.device) -> str:
    """Peak memory of this process on the device, in GiB."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
