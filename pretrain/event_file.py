"""TensorBoard's event file.

PyTorch's SummaryWriter writes in a thread, which reports a full disk as a traceback and names no file. Here
each event is written at once, so that a failure is one message.
"""

import os
import socket
import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram, scalar

from msbreg.run.files import writing


class EventFile:
    """Appends scalars and histograms to a new event file in ``folder``.

    Args:
        first_step: TensorBoard discards entries of earlier files of this folder from this step on.

    Raises:
        RunFailed: the file cannot be written, here and in all methods.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        seconds = int(time.time())
        self.path = folder / f"events.out.tfevents.{seconds}.{socket.gethostname()}.{os.getpid()}"
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add one number."""
        self._add(Event(step=step, summary=scalar(name, value)))

    def add_histogram(
        self,
        name: str,
        values: np.ndarray,  # (N,)
        step: int,
    ) -> None:
        """Add the distribution of some numbers, in 64 bins of equal width."""
        summary: Summary = histogram(name, values, bins=64)
        self._add(Event(step=step, summary=summary))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        with writing(self.path), open(self.path, "ab") as file:
            RecordWriter(file).write(event.SerializeToString())
