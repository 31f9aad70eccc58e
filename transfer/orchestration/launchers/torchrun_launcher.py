"""Run each task in a group of processes, started by torchrun."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.orchestration.launchers.launcher import Launcher, OnEnd, SuiteCommand
from transfer.orchestration.launchers.side_by_side import Place, Process, run_side_by_side
from transfer.orchestration.task import Task
from transfer.orchestration.task_queue import TaskQueue

GROUP = ("-m", "torch.distributed.run", "--standalone")
"""--standalone: a free port for each group, so that groups can run side by side."""


@dataclass(frozen=True)
class Torchrun(Launcher):
    """Groups of ``processes`` processes, one in each place."""

    command: SuiteCommand
    places: Sequence[Place]
    processes: int

    def launch(self, tasks: Sequence[Task], on_end: OnEnd) -> TaskQueue:
        queue = TaskQueue(tasks)

        def start(task: Task, place: Place) -> Process:
            words = [sys.executable, *GROUP, f"--nproc-per-node={self.processes}"]
            words += self.command.words(task.key)
            return Process(words, place.environment(), self.command.log(task.key))

        run_side_by_side(queue, start, self.places, on_end)
        return queue
