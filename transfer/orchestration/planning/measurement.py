"""What short probes measure: seconds of a call or of a training step, and the peak of the memory."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from msbreg.train.loop import Trainable

SECONDS = 2.0
"""Of one probe, after its warm-up."""
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def finished(device: torch.device) -> float:
    """The time at which everything that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_per_call(call: Callable[[], object], device: torch.device, *, most: int = 5) -> float:
    """Median time of a call, without the first one unless that takes long already."""
    durations: list[float] = []
    while len(durations) < most and sum(durations) < SECONDS:
        start = finished(device)
        call()
        durations.append(finished(device) - start)
    return statistics.median(durations[1:] or durations)


def seconds_per_step(
    trainable: Trainable, batches: Iterable[Any], device: torch.device, *, most: int = 15
) -> float:
    """Median time of a training step: loading, forward and backward pass, update at learning rate 0.

    The first two steps are not counted if there are more.
    """
    trainable.train_mode()
    durations: list[float] = []
    stream = iter(batches)
    with contextlib.ExitStack() as stack:
        if close := getattr(stream, "close", None):  # ends the workers of a generator
            stack.callback(close)
        while len(durations) < most and sum(durations) < 2 * SECONDS:
            start = finished(device)
            batch = next(stream, None)
            if batch is None:
                break
            for group in trainable.optimizer.param_groups:
                group["lr"] = 0.0
            trainable.optimizer.zero_grad()
            for loss in trainable.losses(trainable.model, batch, 0):
                loss.total.backward()
            trainable.before_update()
            trainable.optimizer.step()
            durations.append(finished(device) - start)
    return statistics.median(durations[2:] or durations)


@dataclass
class PeakMemory:
    """The largest memory inside the context: of the GPU if there is one, else of the process.

    Attributes:
        bytes: 0 on systems that do not tell it.
    """

    device: torch.device
    bytes: int = field(default=0, init=False)

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _RESET.exists():
            _RESET.write_text("5")  # resets VmHWM, see proc(5)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_reserved(self.device)
        elif _STATUS.exists():
            peak = next(line for line in _STATUS.read_text().splitlines() if "VmHWM" in line)
            self.bytes = int(peak.split()[1]) * 1024
