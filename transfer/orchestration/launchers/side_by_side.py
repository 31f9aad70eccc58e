"""Tasks side by side on this machine: one process, or one group of processes, for each."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msbreg.run.errors import EXIT_USER_ERROR, Interrupted
from msbreg.run.job import log
from msbreg.run.signals import stop_signal
from transfer.orchestration.launchers.launcher import OnEnd
from transfer.orchestration.task import Task
from transfer.orchestration.task_queue import Failure, TaskQueue

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

    def failure(self) -> Failure:
        """What its output says about its failure."""
        code = self.code()
        lines = self.log_file.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        reason = errors[-1].removeprefix("error: ") if errors else f"exit code {code}"
        return Failure(f"{reason} (see {self.log_file})", wrong_input=code == EXIT_USER_ERROR)


def run_side_by_side(
    queue: TaskQueue,
    start: Callable[[Task, Place], Process],
    where: Sequence[Place],
    on_end: OnEnd,
) -> None:
    """Keep as many tasks running as there are places, until all have ended.

    Raises:
        Interrupted: Ctrl-C or SIGTERM: every task was told to save, and has ended. After a second Ctrl-C,
            they are killed.
    """
    running: dict[str, tuple[Task, Place, Process]] = {}
    free = list(where)

    def kill_all() -> None:
        for _, _, process in running.values():
            process.kill()

    with stop_signal(kill_all) as stop:
        stop.watched = True
        try:
            while True:
                while free and not stop and (task := queue.start()) is not None:
                    place = free.pop(0)
                    running[task.key] = task, place, start(task, place)
                    log.info("---- %s started", task.key)
                if not running:
                    break
                if stop:
                    _stop_all([process for _, _, process in running.values()])
                    break
                for task, place, process in [*running.values()]:
                    if process.code() is not None:
                        del running[task.key]
                        free.append(place)
                        _ended(queue, task, process)
                        on_end(task)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            kill_all()  # after an error, or a second Ctrl-C
        if stop:
            raise Interrupted(
                f"{stop.name}: all tasks were stopped; run the same command to continue."
            )


def _stop_all(processes: Sequence[Process]) -> None:
    """Stop all processes and wait for them; they end themselves if they are stuck."""
    for process in processes:
        process.stop()
    while any(process.code() is None for process in processes):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _ended(queue: TaskQueue, task: Task, process: Process) -> None:
    failure = process.failure() if process.code() else None
    queue.end(task.key, failure)
    if failure is None:
        log.info("---- %s done", task.key)
    else:
        log.warning("---- %s failed: %s", task.key, failure.reason)
