"""Run the tasks on this machine: in this process, or side by side in processes of their own."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transfer.orchestration.execution import Progress, execute
from transfer.orchestration.launchers.launcher import Launcher, SuiteCommand
from transfer.orchestration.launchers.side_by_side import Place, Process, run_side_by_side
from transfer.orchestration.task import Task
from transfer.orchestration.task_graph import Plan

GROUP = ("-m", "torch.distributed.run", "--standalone")
"""--standalone: a free port for each group, so that groups can run side by side."""


@dataclass(frozen=True)
class InThisProcess(Launcher):
    """One task after another; under torchrun, in all of its processes."""

    def launch(
        self, plan: Plan, output: Path, *, anyway: bool, after_each: Callable[[], object]
    ) -> Progress:
        return execute(plan, output, anyway=anyway, after_each=after_each)


@dataclass(frozen=True)
class SideBySide(Launcher):
    """Several tasks at a time, one in each place."""

    command: SuiteCommand
    places: Sequence[Place]

    def launch(
        self, plan: Plan, output: Path, *, anyway: bool, after_each: Callable[[], object]
    ) -> Progress:
        def start(task: Task, place: Place) -> Process:
            key = task.key
            return Process(self.command.python(key), place.environment(), self.command.log(key))

        return run_side_by_side(
            plan, output, start, self.places, anyway=anyway, after_each=after_each
        )


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
