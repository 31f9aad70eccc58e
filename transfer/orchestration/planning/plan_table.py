"""The plan of a suite in the terminal: a row for each task, then totals."""

import datetime
import shutil
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from msbreg.run import distributed
from msbreg.run.progress import duration
from transfer.orchestration.launchers.choice import tasks_at_once, usable_gpus
from transfer.orchestration.planning.forecast import Forecast, clock, forecasts, makespan
from transfer.orchestration.suite_config import Config
from transfer.orchestration.task_graph import Plan
from transfer.orchestration.task_state import Standing, standing

WIDTH = 150
"""Columns of the table if the output is not a terminal."""

_NUMBERS = ("decode/s", "net/s", "memory", "disk", "time", "ends")
_STATES = {"new": "to run", "unfinished": "to continue", "stale": "to run again"}


def print_costs(plan: Plan, config: Config) -> None:
    """Measure and print what each task costs, its state, and totals; writes nothing."""
    device = distributed.pick_device(config.device)
    states = {task.key: standing(task) for task in plan.tasks}
    done = [key for key, found in states.items() if found.state == "done"]
    planned = list(forecasts(plan.tasks, device, done=done))
    console, now = Console(highlight=False), datetime.datetime.now()
    if not console.is_terminal:
        console = Console(width=WIDTH, highlight=False)
    console.print(plan_table(planned, states, now, terminal=console.is_terminal))
    for key, found in states.items():
        if found.reason:
            print(f"{key}: {found.reason}")
    places, gpus = tasks_at_once(config), len(usable_gpus(config.device))
    output = config.folder.expanduser().absolute()
    folder = next(path for path in (output, *output.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    for line in totals(planned, places=places, gpus=gpus, now=now, free=free):
        print(line)


def plan_table(
    planned: Sequence[Forecast],
    states: Mapping[str, Standing],
    now: datetime.datetime,
    *,
    terminal: bool,
) -> Table:
    """A row for each task; rates are images per second: decoding by one thread, and the network."""
    table = Table(box=box.SIMPLE if terminal else None, pad_edge=False)
    for heading in ("task", "card", "state", *_NUMBERS, "of which"):
        numeric = heading in _NUMBERS
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    for one in planned:
        cost, state = one.cost, states[one.task.key].state
        row = [one.task.key, one.task.card.name, _STATES.get(state, state)]
        if not one.done and not cost.note:
            row += [_rate(cost.decoding), _rate(cost.network), size(cost.memory), size(cost.disk)]
            row += [duration(cost.total), clock(one.ends, now)]
            row += [", ".join(f"{n} {duration(s)}" for n, s in cost.seconds.items() if s >= 0.5)]
        else:
            row += [""] * len(_NUMBERS) + [cost.note]
        table.add_row(*row)
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
    lines.append(f"disk: {size(disk) or 'nothing'} of {size(free) or 'nothing'} that are free")
    if largest := max((cost.memory for cost in costs), default=0):
        lines.append(f"memory of the largest task: {size(largest)}")
    if unknown := sum(bool(cost.note) for cost in costs):
        lines.append(f"not included: {unknown} tasks that could not be measured")
    return lines


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
