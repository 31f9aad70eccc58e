"""``with start_job(...) as job``: set up and tear down a run.

This covers the device, the process group, the seed, the log, the locked output folder, the record and
signals.
"""

import contextlib
import logging
import os
import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from msbreg.run import distributed
from msbreg.run.config import Card
from msbreg.run.errors import Interrupted, RunFailed, UserError
from msbreg.run.files import is_full, open_no_follow, output_folder, remedy, reserved_space
from msbreg.run.record import FILE_NAME, Record, changed_settings, read_record
from msbreg.run.signals import StopSignal, stop_signal

log = logging.getLogger("msbreg")

LOG_NAME = "log.txt"


@dataclass
class Job:
    """A run in progress.

    Attributes:
        resumed: whether the folder contains an unfinished run with the same settings.
        stop: true after a signal to stop; a long loop then saves and raises ``Interrupted``.
        results: the results, which are stored in ``record.json``.
    """

    output: Path
    device: torch.device
    record: Record
    resumed: bool
    stop: StopSignal
    results: dict[str, Any] = field(default_factory=dict)

    def warn(self, message: str) -> None:
        """Log a warning and store it in the record."""
        if message not in self.record.content["warnings"]:
            self.record.content["warnings"].append(message)
            log.warning(message)


class AlreadyFinished(Exception):
    """The output folder already contains this completed run, and ``--finished skip`` was given."""


@contextlib.contextmanager
def start_job(
    config: Any,  # has output, device, seed and finished
    card: Card,
    *,
    kind: str,
    resume_file: str | None = None,
    inputs: dict[str, str] | None = None,
) -> Iterator[Job]:
    """Set up a run and yield it; tear it down however the body ends.

    If a run ends with a UserError before it has written any file, the new folder is removed.

    Args:
        kind: what the run does, such as ``pretrain``; stored in the record.
        resume_file: name of the checkpoint in the output folder from which an unfinished run resumes.
            Without one, an unfinished run starts over.
        inputs: digests of the input files. A completed run with other digests is a different run.

    Raises:
        UserError: the device is not available, or the output folder cannot be used: it is not writable, or
            contains a completed run, a run with other settings, or a run in progress.
        RunFailed: the disk is full.
        AlreadyFinished: the folder contains this run, completed, and ``config.finished`` is ``skip``.
    """
    log_to_terminal()
    device = distributed.pick_device(config.device)
    distributed.start(device)
    try:
        output = Path(config.output).expanduser()
        with contextlib.ExitStack() as stack:
            new, reserve = False, None
            if distributed.is_main():
                new = stack.enter_context(output_folder(output))
                reserve = stack.enter_context(reserved_space(output))
            previous = _check_previous(
                output, config, kind=kind, resume_file=resume_file, inputs=inputs
            )
            distributed.barrier()
            seed_everything(config.seed)
            record = Record(output, kind=kind, config=config, card=card)
            record.content["device"] = str(device)
            record.content["processes"] = distributed.world_size()
            if inputs is not None:
                record.content["inputs"] = inputs
            if previous is not None:
                record.continue_from(previous)
            ending = _Ending(record, reserve=reserve, new=new)
            stack.enter_context(_log_to_file(output / LOG_NAME))
            stop = stack.enter_context(stop_signal(lambda: ending.write("interrupted")))
            ending.job = Job(output, device, record, previous is not None, stop)
            with ending.recorded() as job:
                yield job
    finally:
        distributed.stop()


class _Ending:
    """Records in ``record.json`` how the run ended.

    Args:
        reserve: file to delete before the final record is written; main process only.
        new: whether the run created its output folder.
    """

    job: Job

    def __init__(self, record: Record, *, reserve: Path | None, new: bool) -> None:
        self.record, self.reserve, self.new = record, reserve, new

    @contextlib.contextmanager
    def recorded(self) -> Iterator[Job]:
        self.write("running")
        try:
            yield self.job
            self.write("done")
        except (Interrupted, KeyboardInterrupt):
            self.write("interrupted")
            raise
        except UserError as error:
            if not self._remove_if_nothing_was_done():
                self._write_failure(error)
            raise
        except BaseException as error:
            if isinstance(error, OSError) and is_full(error):
                what = error.filename or f"a file in {self.record.path.parent}"
                failure = RunFailed(f"cannot write {what}: {error.strerror}.\n{remedy(error)}")
                self._write_failure(failure)
                raise failure from error
            self._write_failure(error)
            raise

    def write(self, status: str) -> None:
        """Write the record, in the main process only."""
        if not distributed.is_main():
            return
        if status != "running" and self.reserve is not None:
            self.reserve.unlink(missing_ok=True)
        self.record.content["results"] = self.job.results
        self.record.write(status)

    def _write_failure(self, error: BaseException) -> None:
        self.record.content["error"] = str(error) or type(error).__name__
        if not isinstance(error, UserError):
            self.record.content["traceback"] = traceback.format_exc()
        try:
            self.write("failed")
        except RunFailed as second:  # the first error is the one to report
            log.warning("the failure could not be recorded: %s", second)

    def _remove_if_nothing_was_done(self) -> bool:
        """Empty the folder if it is new and contains nothing but the record and the log."""
        if not self.new or not distributed.is_main():
            return False
        folder = self.record.path.parent
        if any(not _is_ours(path.name) for path in folder.iterdir()):
            return False
        for name in (FILE_NAME, LOG_NAME):
            (folder / name).unlink(missing_ok=True)
        return True


def _is_ours(name: str) -> bool:
    return name in (FILE_NAME, LOG_NAME) or name.startswith(".")


def _check_previous(
    output: Path,
    config: Any,
    *,
    kind: str,
    resume_file: str | None,
    inputs: dict[str, str] | None,
) -> dict[str, Any] | None:
    """The record of the unfinished run to resume; None to start from scratch."""
    previous = read_record(output)
    if previous is None:
        return None
    if previous["kind"] != kind:
        raise UserError(
            f"output folder {output} contains a run of {previous['kind']}, but this is {kind}; "
            "give another --output"
        )
    changed = changed_settings(config, previous)
    if inputs is not None and previous.get("inputs", inputs) != inputs:
        changed = ", ".join(filter(None, [changed, "the checkpoint file has changed"]))
    if previous["status"] == "done":
        if config.finished == "skip" and not changed:
            raise AlreadyFinished(str(output))
        raise UserError(
            f"output folder {output} contains a completed run"
            + (f" with other settings ({changed})" if changed else "")
            + ".\nGive another --output, or move that folder away"
            + ("." if changed else ", or skip this run with --finished skip.")
        )
    if resume_file is None or not (output / resume_file).exists():
        return None
    if changed:
        raise UserError(
            f"output folder {output} contains an unfinished run with other settings: {changed}.\n"
            "Give the same settings to continue it, or another --output."
        )
    return previous


def seed_everything(seed: int) -> None:
    """Seed the global generators. This suite uses PyTorch's only; user code may use the others."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def log_to_terminal() -> None:
    """Log plain messages to standard error, from the main process only. May be called repeatedly."""
    if not log.handlers:
        handler = _Standard()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.INFO)


class _Standard(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, so that a progress bar or a test can replace it.

    A line that is logged with ``extra={"once": True}`` is not repeated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "once", False):
            message = record.getMessage()
            if message in self.shown:
                return
            self.shown.add(message)
        if distributed.is_main():
            self.stream = sys.stderr  # setStream would flush the previous one, which may be closed
            super().emit(record)


@contextlib.contextmanager
def _log_to_file(path: Path) -> Iterator[None]:
    if not distributed.is_main():
        yield
        return
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """Appends to a regular file. If it cannot be written, reports this once and continues without it."""

    failed = False

    def _open(self) -> TextIOWrapper:
        file = open_no_follow(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND)
        return open(file, "a", encoding="utf-8", errors="replace")

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by ``logging`` if a line cannot be written."""
        if not self.failed:
            self.failed = True
            print(f"{self.baseFilename} cannot be written: {sys.exception()}", file=sys.stderr)

    def close(self) -> None:
        """Close the file, ignoring errors: unwritten lines were already reported."""
        try:
            super().close()
        except OSError:
            self.failed = True
