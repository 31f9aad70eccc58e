"""Progress of a long loop, with rate and remaining time: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from msbreg.run import distributed

log = logging.getLogger("msbreg")
SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows the progress of a loop. ``update`` is cheap enough to call at every step.

    Args:
        label: what the loop does.
        total: number of steps.
        first: steps completed before a resumed run; they do not count toward the rate.
        per_step: number of units processed per step, for the rate.
        unit: plural name of the units, such as ``images``.
    """

    def __init__(
        self, label: str, total: int, *, first: int = 0, per_step: int = 1, unit: str = "steps"
    ) -> None:
        self.label, self.total, self.per_step, self.unit = label, total, per_step, unit
        self.first = self.done = first
        self.rate = 0.0
        self._start = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        if sys.stderr.isatty() and distributed.is_main():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total, completed=first, text="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """Show that ``done`` steps are completed, followed by ``text``."""
        self.done = done
        now = time.monotonic()
        elapsed = now - self._start
        self.rate = (done - self.first) / elapsed if elapsed > 0 else 0.0
        left = (self.total - done) / self.rate if self.rate > 0 else float("inf")
        status = f"{speed(self.rate * self.per_step, self.unit)}, {duration(left)} left"
        if text:
            status += f"  {text}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=status)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            log.info("%s %d/%d  %s", self.label, done, self.total, status)


def speed(per_second: float, unit: str) -> str:
    """Format a rate, or its inverse if below 1 per second; ``unit`` is a plural.

    >>> speed(1234.5, "views"), speed(2.5, "images"), speed(1 / 12, "classes")
    ('1234 views/s', '2.5 images/s', '12 s per class')
    """
    if per_second >= 10:
        return f"{per_second:.0f} {unit}/s"
    if per_second >= 1:
        return f"{per_second:.1f} {unit}/s"
    if per_second == 0:
        return f"no {unit} yet"
    one = unit.removesuffix("es") if unit.endswith(("sses", "ches")) else unit.removesuffix("s")
    seconds = 1 / per_second
    return f"{f'{seconds:.1f} s' if seconds < 10 else duration(seconds)} per {one}"


def duration(seconds: float) -> str:
    """Format a duration as ``42 s``, ``3 min 05 s``, ``2 h 07 min`` or ``3 d 04 h``."""
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    for size, unit, small, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small:02d} {name}"
    return f"{whole} s"
