"""Ctrl-C and SIGTERM: a training loop stops at its next step; a run that is stuck is terminated.

Before a run starts, they end the process with a message.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from msbreg.run.errors import EXIT_INTERRUPTED, INTERRUPTED

log = logging.getLogger("msbreg")

SECONDS_TO_REACT = 60.0
"""Longest time between a signal and the next step of the loop; after that, the run counts as stuck."""
SECONDS_TO_SAVE = 600.0
"""Longest time between that step and the end of the process."""
_SECONDS_FOR_FINAL_RECORD = 5.0
_DONE = 0  # not a signal number


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_signals() -> None:
    """From now on, Ctrl-C and SIGTERM end the process with a message: nothing has been opened or written."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(EXIT_INTERRUPTED)

    for number in _SIGNALS:
        signal.signal(number, end)


def interrupt_at_signals() -> None:
    """From now on, Ctrl-C and SIGTERM raise KeyboardInterrupt."""
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)


def exit_at_signals() -> None:
    """From now on, Ctrl-C and SIGTERM end the process with exit code 0: the run is complete.

    What is left are the exit handlers of libraries, whose interruption would print a traceback.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.stdout.flush()
        os._exit(0)

    for number in _SIGNALS:
        signal.signal(number, end)


class StopSignal:
    """True after Ctrl-C or SIGTERM, if a loop watches for it; otherwise signals interrupt immediately.

    Attributes:
        name: name of the signal; empty before one is received.
        watched: set by a loop that checks this object at each step, saves, and raises ``Interrupted``.
        seen: set when the loop has checked this object after the signal.
    """

    def __init__(self) -> None:
        self.name = ""
        self.watched = False
        self.seen = threading.Event()

    def __bool__(self) -> bool:
        if self.name:
            self.seen.set()
        return bool(self.name)


@contextlib.contextmanager
def stop_signal(final_record: Callable[[], None]) -> Iterator[StopSignal]:
    """Turn SIGTERM and the first Ctrl-C into a request to stop, and terminate a process that is stuck.

    A second Ctrl-C interrupts immediately. A second SIGTERM does not, because torchrun forwards the signal
    that a scheduler has already sent to each process.

    Args:
        final_record: called before a stuck process is terminated, to record how the run ended.
    """
    stop = StopSignal()

    def request_stop(number: int, frame: FrameType | None) -> None:
        if not stop.watched or (stop.name and number == signal.SIGINT):
            raise KeyboardInterrupt
        if not stop.name:
            stop.name = signal.Signals(number).name
            log.info("%s: stopping after this step", stop.name)

    try:
        before = {
            number: signal.signal(number, request_stop)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # only the main thread can handle signals
        yield stop
        return
    try:
        with _watchdog(stop, final_record):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watchdog(stop: StopSignal, final_record: Callable[[], None]) -> Iterator[None]:
    """Start a thread that terminates the process if it does not end in time after a signal.

    Python runs signal handlers only when the main thread executes bytecode, which never happens if it is
    stuck in a library. The wakeup file descriptor receives the signal number in any case.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ended = threading.Event()

    def watch() -> None:
        number = int(signal.SIGCHLD)
        while number not in (signal.SIGINT, signal.SIGTERM):
            number = os.read(reading, 1)[0]
            if number == _DONE:
                return
        name = signal.Signals(number).name
        if not stop.seen.wait(SECONDS_TO_REACT):
            _end(
                f"{name}: no step within {SECONDS_TO_REACT:g} s, so nothing was saved", final_record
            )
        if not ended.wait(SECONDS_TO_SAVE):
            _end(f"{name}: saving took more than {SECONDS_TO_SAVE:g} s", final_record)

    thread = threading.Thread(target=watch, name="stop watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        stop.seen.set()
        os.write(writing, bytes([_DONE]))
        thread.join()
        os.close(writing)
        os.close(reading)


def _forget_pipe() -> None:
    """Detach a forked child from the pipe: its signals must not stop the parent."""
    signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_pipe)


def _end(message: str, final_record: Callable[[], None]) -> None:
    """Terminate the process, even if the disk does not respond."""
    timer = threading.Timer(_SECONDS_FOR_FINAL_RECORD, os._exit, (EXIT_INTERRUPTED,))
    timer.daemon = True
    timer.start()
    print(
        f"interrupted: {message}. Run the same command to continue from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    try:
        final_record()
    finally:
        os._exit(EXIT_INTERRUPTED)
