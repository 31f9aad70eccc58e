"""Run the tasks of a plan one after another. A task that fails does not stop the others."""

import functools
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from msbreg.run import distributed
from msbreg.run.errors import Interrupted, RunFailed, UserError
from msbreg.run.job import log
from msbreg.run.progress import duration
from msbreg.run.record import SET_ASIDE, read_record
from transfer.orchestration.evaluated_networks import EvaluatedNetwork
from transfer.orchestration.protocols import GATE
from transfer.orchestration.task import Task
from transfer.orchestration.task_graph import Plan
from transfer.orchestration.task_state import forget_data, standing

NOT_LEARNED = "not learned"

End = Literal["already done", "done", "failed", "not run", "queued"]
"""queued: as a job of a cluster."""


@dataclass
class Progress:
    """How the tasks ended so far.

    Attributes:
        ends: key of a task -> how it ended.
        reasons: key of a task that failed or was not run -> why.
        unlearned: network -> why its gate says that it has not learned anything.
    """

    ends: dict[str, End] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unlearned: dict[str, list[str]] = field(default_factory=dict)

    def keys(self, end: End) -> list[str]:
        """The tasks that ended like this, in the order of the plan."""
        return [key for key, one in self.ends.items() if one == end]


def execute(
    plan: Plan, output: Path, *, anyway: bool, after_each: Callable[[], object]
) -> Progress:
    """Run what is not done yet, and call ``after_each`` after every run; see ``Launcher.launch``.

    Args:
        output: folder of the suite; the caller holds its lock.
        anyway: also evaluate networks whose gate says that they have not learned anything.

    Raises:
        Interrupted, KeyboardInterrupt: a run was stopped; the same command continues.
        RunFailed: with several processes, a task failed: the others may wait inside it.
    """
    progress, start = Progress(), time.monotonic()
    for number, task in enumerate(plan.tasks, 1):
        if is_due(task, plan, output, progress, anyway=anyway):
            place, after = f"{number} of {len(plan.tasks)}", duration(time.monotonic() - start)
            log.info("---- %s of %s (task %s, after %s)", task.name, task.network, place, after)
            record_end(task, _run(task, progress), progress, anyway=anyway)
            after_each()
    return progress


def is_due(task: Task, plan: Plan, output: Path, progress: Progress, *, anyway: bool) -> bool:
    """Whether a task must run now; otherwise, how it ended is recorded.

    What it needs must have ended. A task whose state cannot be told, or whose earlier run cannot be moved
    aside, has failed.
    """
    if reason := why_not_run(task, plan, progress, anyway=anyway):
        progress.ends[task.key], progress.reasons[task.key] = "not run", reason
        return False
    try:
        done = distributed.from_main(functools.partial(_is_done, task, output))
    except (UserError, RunFailed, OSError) as error:  # OSError: the checkpoint is gone
        progress.reasons[task.key] = str(error)
        log.error("%s failed: %s", task.key, error)
        record_end(task, "failed", progress, anyway=anyway)
        return False
    if not done:
        return True
    log.info("%s is done already", task.key)
    record_end(task, "already done", progress, anyway=anyway)
    return False


def record_end(task: Task, end: End, progress: Progress, *, anyway: bool) -> None:
    """Record how a task ended; of a gate, also its verdict."""
    progress.ends[task.key] = end
    if end != "already done":
        forget_data()  # the task took its time: the data may have changed since the last look
    if task.script == GATE and end in ("done", "already done"):
        look_at_verdict(task, progress, anyway=anyway)


def _run(task: Task, progress: Progress) -> End:
    """Run a task in this process; its failure is logged, and recorded by the run itself."""
    try:
        task.run()
    except Interrupted:  # stops the suite
        raise
    except (UserError, RunFailed) as error:
        progress.reasons[task.key] = str(error)
    except Exception as error:  # noqa: BLE001 - of any kind: the other tasks can still run
        log.error("%s", traceback.format_exc())
        progress.reasons[task.key] = f"{type(error).__name__}: {error}"
    else:
        return "done"
    if distributed.world_size() > 1:  # the processes may have failed at different places
        raise RunFailed(
            f"{task.key} failed: {progress.reasons[task.key]}\nThe same command keeps the completed runs."
        )
    log.error("%s failed: %s", task.key, progress.reasons[task.key])
    return "failed"


def why_not_run(task: Task, plan: Plan, progress: Progress, *, anyway: bool) -> str:
    """Why a task cannot run; empty if it can."""
    for key in task.needs:
        if progress.ends.get(key) in ("failed", "not run"):
            return f"it needs {key}, which {'failed' if key in progress.keys('failed') else 'was not run'}"
    if anyway or not progress.unlearned:
        return ""
    if task.network in progress.unlearned:
        return "the network has not learned anything"
    network = _network(plan, task)
    if network.untrained and not _useful(network, plan, progress):
        return "it is the twin of a network that has not learned anything"
    return ""


def _useful(twin: EvaluatedNetwork, plan: Plan, progress: Progress) -> bool:
    """Whether a twin belongs to a checkpoint that is evaluated."""
    return any(
        not other.untrained and other.spec == twin.spec and other.folder not in progress.unlearned
        for other in plan.networks
    )


def _network(plan: Plan, task: Task) -> EvaluatedNetwork:
    return next(network for network in plan.networks if network.folder == task.network)


def look_at_verdict(task: Task, progress: Progress, *, anyway: bool) -> None:
    """Remember the network if its gate says that it has not learned anything."""
    record = distributed.from_main(lambda: read_record(task.folder)) or {}
    results = record.get("results", {})
    if results.get("verdict") != NOT_LEARNED:
        return
    progress.unlearned[task.network] = [str(reason) for reason in results.get("reasons", [])]
    log.warning(
        "%s HAS NOT LEARNED ANYTHING: %s.%s",
        task.network,
        "; ".join(progress.unlearned[task.network]),
        " Continuing anyway" if anyway else "",
    )


# ---- Earlier runs in the folders of the tasks


def _is_done(task: Task, output: Path) -> bool:
    """Whether the completed run is there; moves anything else aside that cannot be continued."""
    found = standing(task)
    if found.state == "stale":
        place = set_aside(task, output)
        log.warning("%s: %s.\nMoved to %s; running it again", task.folder, found.reason, place)
    return found.state == "done"


def set_aside(task: Task, output: Path) -> Path:
    """Move the folder of a task to ``OUTPUT/set-aside/NETWORK/NAME-1``, -2, ...

    Raises:
        RunFailed: it cannot be moved.
    """
    parent = output.expanduser() / SET_ASIDE / task.network
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while os.path.lexists(parent / f"{task.name}-{number}"):
            number += 1
        place = parent / f"{task.name}-{number}"
        task.folder.rename(place)
    except OSError as error:
        raise RunFailed(
            f"{task.folder} cannot be moved to {parent}: {error.strerror}; move it away yourself, then run "
            "the same command"
        ) from error
    return place
