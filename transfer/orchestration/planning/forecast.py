"""What a plan of tasks costs on this machine: short probes of each kind of work, extrapolated to all of it.

Measured, in some seconds for each kind of work and on real images of the task's data: decoding with the
transform, the forward pass of this architecture at the task's size and batch, the pass of both together,
steps of training with their data loading, the evaluation of a few test images, and the peak of the memory
meanwhile.

Extrapolated: everything else is in proportion to these. Searches scale with queries times bank; fits of
classifiers are measured on up to 512 made-up features of the same dimension and scale with the images
and classes (SVMs divided by the workers). Reading and checking data sets, saving checkpoints,
drawings, the report, the start of processes and the compilation of networks are not included. Tasks that
differ only in weights are measured once. Nothing is written.
"""

import datetime
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from msbreg.run.errors import RunFailed, UserError
from msbreg.run.job import log
from transfer.orchestration.planning.cost import Cost, Probe
from transfer.orchestration.planning.frozen_costs import FROZEN
from transfer.orchestration.planning.training_costs import TRAINED
from transfer.orchestration.task import Task
from transfer.orchestration.waiting import first_ready

COSTS = FROZEN | TRAINED


@dataclass(frozen=True)
class Forecast:
    """The cost of one task; of a done task, nothing.

    Attributes:
        ends: seconds from now if tasks run one after another.
    """

    task: Task
    cost: Cost
    done: bool
    ends: float


def forecasts(
    tasks: Sequence[Task], device: torch.device, *, done: Collection[str] = ()
) -> Iterator[Forecast]:
    """The forecast of each task, in order, as soon as it is measured.

    Args:
        done: keys of the tasks that need not run.
    """
    probe, ends = Probe(device), 0.0
    for task in tasks:
        if task.key in done:
            yield Forecast(task, Cost(), True, ends)
            continue
        cost = cost_of(task, probe)
        ends += cost.total
        yield Forecast(task, cost, False, ends)


def cost_of(task: Task, probe: Probe) -> Cost:
    """The cost of a task; with a note and no time if it cannot be measured."""
    measure = COSTS.get(task.script)
    if measure is None:
        return Cost(note=f"transfer/{task.script}.py cannot be measured")
    log.info("measuring %s", task.key)
    try:
        return measure(task.config, probe)
    except (UserError, RunFailed) as error:
        return Cost(note=str(error).partition("\n")[0])


def makespan(planned: Sequence[Forecast], places: int) -> float:
    """Seconds until all tasks are done, if each place runs one task at a time at its full speed.

    >>> from msbreg.run.config import Card
    >>> def planned(name, seconds, *needs):
    ...     task = Task("a", name, "knn", None, Card(), needs)
    ...     return Forecast(task, Cost({"features": seconds}), False, 0.0)
    >>> tasks = [planned("linear", 5.0), planned("robustness", 2.0, "a/linear"), planned("knn", 4.0)]
    >>> makespan(tasks, 1), makespan(tasks, 2)
    (11.0, 7.0)
    """
    left = [one for one in planned if not one.done]
    waiting, tasks = [one.task for one in left], [one.task for one in left]
    seconds = {one.task.key: one.cost.total for one in left}
    running: dict[str, float] = {}
    ended: set[str] = set()
    now = 0.0
    while True:
        while len(running) < places and (task := first_ready(waiting, tasks, ended)) is not None:
            waiting.remove(task)
            running[task.key] = now + seconds[task.key]
        if not running:
            return now
        key = min(running, key=lambda name: running[name])
        now = running.pop(key)
        ended.add(key)


def clock(seconds: float, now: datetime.datetime) -> str:
    """The time of day in so many seconds, with the date if it is another day.

    >>> now = datetime.datetime(2026, 3, 1, 22, 0)
    >>> clock(5400, now), clock(7 * 3600, now)
    ('23:30', '2026-03-02 05:00')
    """
    then = now + datetime.timedelta(seconds=seconds)
    return then.strftime("%H:%M" if then.date() == now.date() else "%Y-%m-%d %H:%M")
