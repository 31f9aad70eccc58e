"""``with job(...) as job``: everything about a run that is not its mathematics.

Device, processes, seeds, the log, the output folder with its lock, the record, signals, and their
end on every path out.
"""

import contextlib
import fcntl
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch

from msbreg.run import distributed
from msbreg.run.config import Card, differences, plain
from msbreg.run.errors import Interrupted, UserError
from msbreg.run.record import Record, read_record

log = logging.getLogger("msbreg")

# May change between an interrupted run and its continuation without changing what it computes.
_MAY_CHANGE_ON_RESUME = frozenset({"device", "workers", "finished", "output", "cache"})


@dataclass
class StopSignal:
    """Set by the first Ctrl-C or SIGTERM while somebody looks at it; else they interrupt at once.

    Attributes:
        watched: a loop sets it that looks at each step, saves, and raises ``Interrupted``.
    """

    name: str = ""
    watched: bool = False

    def __bool__(self) -> bool:
        return bool(self.name)


@dataclass
class Job:
    """A run in progress.

    Attributes:
        resumed: whether the folder held an unfinished run of the same settings.
        results: what ``record.json`` will say came out.
        stop: true once the run was asked to end; a long loop saves and raises ``Interrupted``.
    """

    output: Path
    device: torch.device
    record: Record
    resumed: bool
    stop: StopSignal
    results: dict[str, Any] = field(default_factory=dict)

    def warn(self, message: str) -> None:
        """Say it, and keep it in the record."""
        if message not in self.record.content["warnings"]:
            self.record.content["warnings"].append(message)
            log.warning(message)


class AlreadyFinished(Exception):
    """The folder holds this very run, finished, and the caller asked to leave it at that."""


@contextlib.contextmanager
def job(
    config: Any,  # has output, device, seed and finished
    card: Card,
    *,
    kind: str,
    resume_file: str | None = None,
    inputs: dict[str, str] | None = None,
) -> Iterator[Job]:
    """Set up a run, and tear it down on every path.

    Args:
        resume_file: name of the file in the output folder that an unfinished run is continued from;
            without one, an unfinished run starts again, and there may be one process only.
        inputs: digests of files that the settings name by path; a finished run of other contents is
            not this run.

    Raises:
        UserError: the device is not there, or the output folder cannot be used: it holds a finished
            run, a run of other settings, a run in progress, or it is not writable.
        AlreadyFinished: it holds this run, finished, and ``config.finished`` is ``skip``.
    """
    log_to_terminal()
    if resume_file is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{kind} runs in one process; start it with python, not with torchrun")
    device = distributed.pick_device(config.device)
    distributed.start(device)
    try:
        output = Path(config.output).expanduser()
        with contextlib.ExitStack() as stack:
            if distributed.is_main():
                _make_folder(output)
                stack.enter_context(_locked(output))
            previous = _check_previous(
                output, config, kind=kind, resume_file=resume_file, inputs=inputs
            )
            distributed.barrier()
            torch.manual_seed(config.seed)
            record = Record(output, kind=kind, config=config, card=card)
            record.content["device"] = str(device)
            record.content["processes"] = distributed.world_size()
            if inputs is not None:
                record.content["inputs"] = inputs
            if previous is not None:
                record.continue_from(previous)
            stack.enter_context(_log_to_file(output / "log.txt"))
            stop = stack.enter_context(_stop_signal())
            running = Job(output, device, record, previous is not None, stop)
            with _recorded(running):
                yield running
    finally:
        distributed.stop()


@contextlib.contextmanager
def _recorded(running: Job) -> Iterator[None]:
    """Keep ``record.json`` truthful about how the run ended."""

    def write(status: str) -> None:
        if distributed.is_main():
            record.content["results"] = running.results
            record.write(status)

    record = running.record
    write("running")
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        write("interrupted")
        raise
    except BaseException as error:
        record.content["error"] = str(error) or type(error).__name__
        if not isinstance(error, UserError):
            record.content["traceback"] = traceback.format_exc()
        with contextlib.suppress(OSError):  # a full disk is often why we are here
            write("failed")
        raise
    write("done")


def _check_previous(
    output: Path,
    config: Any,
    *,
    kind: str,
    resume_file: str | None,
    inputs: dict[str, str] | None,
) -> dict[str, Any] | None:
    """The record of an unfinished run to continue, None for a fresh start."""
    previous = read_record(output)
    if previous is None:
        return None
    if previous["kind"] != kind:
        raise UserError(
            f"output folder {output} holds a run of {previous['kind']}, this is {kind}; "
            "give another --output"
        )
    changed = _changed(config, previous)
    if inputs is not None and previous.get("inputs", inputs) != inputs:
        changed = ", ".join(filter(None, [changed, "the checkpoint file has changed"]))
    if previous["status"] == "done":
        if config.finished == "skip" and not changed:
            raise AlreadyFinished(str(output))
        raise UserError(
            f"output folder {output} holds a finished run"
            + (f" of other settings ({changed})" if changed else "")
            + ".\nGive another --output, or move that folder away"
            + ("." if changed else "; --finished skip leaves it as it is.")
        )
    if resume_file is None or not (output / resume_file).exists():
        return None
    if changed:
        raise UserError(
            f"output folder {output} holds an unfinished run of other settings: {changed}.\n"
            "Give the same settings to continue it, or another --output."
        )
    return previous


def _changed(config: Any, previous: dict[str, Any]) -> str:
    now = {k: v for k, v in plain(config).items() if k not in _MAY_CHANGE_ON_RESUME}
    return ", ".join(
        f"{name} = {value!r} here" for name, value in differences(now, previous["config"]).items()
    )


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output folder {output} cannot be written: {error.strerror}; give another --output"
        ) from error


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of it when the process and its workers have ended."""
    with open(output / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another run is writing to {output}; wait for it, or give another --output"
            ) from error
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s)", output, error.strerror)
        for left in output.glob(".*.tmp"):  # of a run that was killed while writing
            left.unlink()
        yield


@contextlib.contextmanager
def _stop_signal() -> Iterator[StopSignal]:
    """Turn SIGTERM and the first SIGINT into a wish that a watching loop sees at its next step."""
    stop = StopSignal()

    def ask(number: int, frame: FrameType | None) -> None:
        if not stop.watched or (stop and number == signal.SIGINT):
            raise KeyboardInterrupt
        stop.name = signal.Signals(number).name
        log.info("%s: stopping after this step", stop.name)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's worker, say): signals are not ours
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to_terminal() -> None:
    """Plain messages on standard error, once, from the main process only."""
    if not log.handlers:
        handler = _Standard()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.INFO)


class _Standard(logging.StreamHandler[TextIO]):
    """Writes to the ``sys.stderr`` of the moment, so that a progress bar or a test can replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        if distributed.is_main():
            self.stream = sys.stderr  # setStream would flush the one before, which may be closed
            super().emit(record)


@contextlib.contextmanager
def _log_to_file(path: Path) -> Iterator[None]:
    if not distributed.is_main():
        yield
        return
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
