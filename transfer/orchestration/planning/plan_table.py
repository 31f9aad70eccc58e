"""The plan of a suite in the terminal: a row for each task, then totals."""

import datetime
import shutil
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from msbreg.run.progress import duration
from transfer.orchestration.planning.forecast import Forecast, clock, makespan

_NUMBERS = ("decode/s", "net/s", "memory", "disk", "time", "ends")


def plan_table(planned: Sequence[Forecast], now: datetime.datetime, *, terminal: bool) -> Table:
    """A row for each task; rates are images per second."""
    table = Table(box=box.SIMPLE if terminal else None, pad_edge=False)
    for heading in ("task", *_NUMBERS, "of which"):
        numeric = heading in _NUMBERS
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    for one in planned:
        cost = one.cost
        if one.done or cost.note:
            table.add_row(one.task.key, *[""] * len(_NUMBERS), cost.note or "done")
            continue
        table.add_row(
            one.task.key,
            _rate(cost.decoding),
            _rate(cost.network),
            size(cost.memory),
            size(cost.disk),
            duration(cost.total),
            clock(one.ends, now),
            ", ".join(f"{part} {duration(s)}" for part, s in cost.seconds.items() if s >= 0.5),
        )
    return table


def totals(
    planned: Sequence[Forecast], *, places: int, gpus: int, now: datetime.datetime, free: int
) -> list[str]:
    """The lines below the table.

    Args:
        places: tasks at a time.
        gpus: number of GPUs.
        free: bytes that are free on the disk of the output folder.
    """
    costs = [one.cost for one in planned]
    total = sum(cost.total for cost in costs)
    lines = [f"one after another: {duration(total)}, until {clock(total, now)}"]
    if places > 1:
        side = makespan(planned, places)
        if gpus >= places:
            lines.append(
                f"side by side, {places} at a time: {duration(side)}, until {clock(side, now)}"
            )
        else:
            lines.append(
                f"side by side, {places} at a time: from {duration(side)} to {duration(total)}, because they "
                "share the device"
            )
    disk = sum(cost.disk for cost in costs)
    lines.append(f"disk: {size(disk)} of {size(free)} that are free")
    lines.append(f"memory of the largest task: {size(max((c.memory for c in costs), default=0))}")
    if unknown := sum(bool(cost.note) for cost in costs):
        lines.append(f"not included: {unknown} tasks that could not be measured")
    return lines


def print_plan(planned: Sequence[Forecast], *, places: int, gpus: int, folder: str) -> None:
    """Print the table and the totals.

    Args:
        folder: an existing folder on the disk of the output.
    """
    console, now = Console(highlight=False), datetime.datetime.now()
    if not console.is_terminal:
        console = Console(width=140, highlight=False)
    console.print(plan_table(planned, now, terminal=console.is_terminal))
    free = shutil.disk_usage(folder).free
    for line in totals(planned, places=places, gpus=gpus, now=now, free=free):
        print(line)


def size(count: int) -> str:
    """A number of bytes; empty for nothing.

    >>> size(0), size(4_200_000), size(10_500_000_000)
    ('', '4 MB', '10.5 GB')
    """
    if count < 5e5:
        return "" if count == 0 else "1 MB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _rate(per_second: float) -> str:
    if per_second == 0:
        return ""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"
