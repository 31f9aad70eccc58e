"""Ctrl-C and SIGTERM: a loop sees them at its next step; a run that makes no step is ended."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from msbreg.run.errors import EXIT_INTERRUPTED

log = logging.getLogger("msbreg")

SECONDS_TO_REACT = 60.0
"""Between a signal and the next step of the loop; a run that takes longer is stuck, and is ended."""
SECONDS_TO_SAVE = 600.0
"""Between that step and the end of the process."""
_SECONDS_FOR_LAST_WORDS = 5.0
_DONE = 0  # not the number of a signal


class StopSignal:
    """True once Ctrl-C or SIGTERM was received while a loop watches; else they interrupt at once.

    Attributes:
        name: of the signal; empty before.
        watched: set by a loop that looks at each step, saves, and raises ``Interrupted``.
        seen: set once the loop has looked after the signal.
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
def stop_signal(last_words: Callable[[], None]) -> Iterator[StopSignal]:
    """Turn SIGTERM and the first Ctrl-C into a wish, and see to it that the process ends.

    A second Ctrl-C interrupts at once. A second SIGTERM does not: torchrun passes on the one that a
    scheduler has already sent to each process.

    Args:
        last_words: called before a stuck process is ended, to write how it ended.
    """
    stop = StopSignal()

    def ask(number: int, frame: FrameType | None) -> None:
        if not stop.watched or (stop.name and number == signal.SIGINT):
            raise KeyboardInterrupt
        if not stop.name:
            stop.name = signal.Signals(number).name
            log.info("%s: stopping after this step", stop.name)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's worker, say): signals are not ours
        yield stop
        return
    try:
        with _watchdog(stop, last_words):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _watchdog(stop: StopSignal, last_words: Callable[[], None]) -> Iterator[None]:
    """A thread that ends the process some time after a signal.

    Python's handlers wait until the main thread runs bytecode, which one that is stuck in a library
    never does; the number of a signal is written to a pipe in any case.
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
            _end(f"{name}: no step within {SECONDS_TO_REACT:g} s, so nothing was saved", last_words)
        if not ended.wait(SECONDS_TO_SAVE):
            _end(f"{name}: saving took more than {SECONDS_TO_SAVE:g} s", last_words)

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
    """In a forked child, such as a worker that is terminated: its signals are not the parent's."""
    signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_pipe)


def _end(message: str, last_words: Callable[[], None]) -> None:
    """End the process, even if a disk does not answer."""
    timer = threading.Timer(_SECONDS_FOR_LAST_WORDS, os._exit, (EXIT_INTERRUPTED,))
    timer.daemon = True
    timer.start()
    print(
        f"interrupted: {message}. The same command continues from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    try:
        last_words()
    finally:
        os._exit(EXIT_INTERRUPTED)
