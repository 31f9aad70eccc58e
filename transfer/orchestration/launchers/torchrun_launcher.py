"""Run each task in a group of processes, started by torchrun."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer.orchestration.execution import Progress
from transfer.orchestration.launchers.launcher import Launcher, SuiteCommand
from transfer.orchestration.launchers.side_by_side import Place, Process, run_side_by_side
from transfer.orchestration.task import Task
from transfer.orchestration.task_graph import Plan

GROUP = ("-m", "torch.distributed.run", "--standalone")
"""--standalone: a free port for each group, so that groups can run side by side."""


@dataclass(frozen=True)
class Torchrun(Launcher):
    """Groups of ``processes`` processes, one in each place."""

    command: SuiteCommand
    places: Sequence[Place]
    processes: int

    def launch(
        self, plan: Plan, output: Path, *, anyway: bool, after_each: Callable[[], object]
    ) -> Progress:
        def start(task: Task, place: Place) -> Process:
            words = [sys.executable, *GROUP, f"--nproc-per-node={self.processes}"]
            words += self.command.words(task.key)
            return Process(words, place.environment(), self.command.log(task.key))

        return run_side_by_side(
            plan, output, start, self.places, anyway=anyway, after_each=after_each
        )
