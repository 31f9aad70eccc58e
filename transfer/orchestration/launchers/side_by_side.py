"""Tasks side by side on this machine: one process, or one group of processes, for each."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msbreg.run.errors import Interrupted
from msbreg.run.job import log
from msbreg.run.signals import stop_signal
from transfer.orchestration.execution import Progress, is_due, record_end
from transfer.orchestration.task import Task
from transfer.orchestration.task_graph import Plan
from transfer.orchestration.waiting import first_ready

SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class Place:
    """What a task may use of this machine.

    Attributes:
        gpus: GPUs as in CUDA_VISIBLE_DEVICES; empty leaves the choice to the task.
        threads: number of CPU threads of each process.
    """

    gpus: tuple[str, ...] = ()
    threads: int = 1

    def environment(self) -> dict[str, str]:
        """The environment of the task. OMP_NUM_THREADS remains if the user has set it."""
        own = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        return {"OMP_NUM_THREADS": str(self.threads)} | os.environ | own


def places(
    count: int, *, gpus: Sequence[str], processes: int = 1, cores: int | None = None
) -> list[Place]:
    """Divide the machine among ``count`` tasks at a time, of ``processes`` processes each.

    Each task gets GPUs of its own if there are enough; otherwise all share them.

    >>> [place.gpus for place in places(2, gpus=["0", "1", "2", "3"], processes=2)]
    [('0', '1'), ('2', '3')]
    >>> places(3, gpus=[], cores=8)[0]
    Place(gpus=(), threads=2)
    """
    cores = cores or len(os.sched_getaffinity(0))
    threads = max(1, cores // (count * processes))
    if len(gpus) < count * processes:
        return [Place(threads=threads)] * count
    return [
        Place(tuple(gpus[first : first + processes]), threads)
        for first in range(0, count * processes, processes)
    ]


class Process:
    """A task in a process of its own. Its output goes to a file.

    It does not receive the terminal's Ctrl-C: only ``stop`` ends it, once.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log_file: Path):
        self.log_file = log_file
        with open(log_file, "wb") as output:
            self._process = subprocess.Popen(
                words,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def code(self) -> int | None:
        """The exit code; None while it is running."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save and end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and the processes that it started at once."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def reason(self) -> str:
        """What its output says about its failure."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        what = errors[-1].removeprefix("error: ") if errors else f"exit code {self.code()}"
        return f"{what} (see {self.log_file})"


Start = Callable[[Task, Place], Process]


def run_side_by_side(
    plan: Plan,
    output: Path,
    start: Start,
    where: Sequence[Place],
    *,
    anyway: bool,
    after_each: Callable[[], object],
) -> Progress:
    """Keep as many tasks running as there are places, until all have ended; see ``Launcher.launch``.

    Raises:
        Interrupted: Ctrl-C or SIGTERM: every task was told to save, and has ended. After a second Ctrl-C,
            they are killed.
    """
    progress, waiting, free = Progress(), list(plan.tasks), list(where)
    running: dict[str, tuple[Task, Place, Process]] = {}

    def kill_all() -> None:
        for _, _, process in running.values():
            process.kill()

    def fill() -> None:
        """Start tasks in the free places, and record those that need not or cannot run."""
        while free and (task := first_ready(waiting, plan.tasks, progress.ends)) is not None:
            waiting.remove(task)
            if is_due(task, plan, output, progress, anyway=anyway):
                place = free.pop(0)
                running[task.key] = task, place, start(task, place)
                number = plan.tasks.index(task) + 1
                log.info("---- %s started (task %d of %d)", task.key, number, len(plan.tasks))

    with stop_signal(kill_all) as stop:
        stop.watched = True
        try:
            fill()
            while running:
                if stop:
                    _stop_all([process for _, _, process in running.values()])
                    break
                for task, place, process in [*running.values()]:
                    if process.code() is not None:
                        del running[task.key]
                        free.append(place)
                        _record(task, process, progress, anyway=anyway)
                        after_each()
                if not stop:
                    fill()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            kill_all()  # after an error, or a second Ctrl-C
        if stop:
            raise Interrupted(
                f"{stop.name}: all tasks were stopped; run the same command to continue."
            )
    return progress


def _stop_all(processes: Sequence[Process]) -> None:
    """Stop all processes and wait for them; they end themselves if they are stuck."""
    for process in processes:
        process.stop()
    while any(process.code() is None for process in processes):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _record(task: Task, process: Process, progress: Progress, *, anyway: bool) -> None:
    """Record how the process of a task ended."""
    if process.code() == 0:
        log.info("---- %s done", task.key)
        record_end(task, "done", progress, anyway=anyway)
        return
    progress.reasons[task.key] = process.reason()
    log.error("%s failed: %s", task.key, progress.reasons[task.key])
    record_end(task, "failed", progress, anyway=anyway)
