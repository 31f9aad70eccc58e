"""Run the tasks on this machine: one after another in this process, or side by side in one process each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msbreg.run.errors import Interrupted, UserError
from msbreg.run.job import log
from transfer.orchestration.launchers.launcher import Launcher, OnEnd, SuiteCommand
from transfer.orchestration.launchers.side_by_side import Place, Process, run_side_by_side
from transfer.orchestration.task import Task
from transfer.orchestration.task_queue import Failure, TaskQueue


@dataclass(frozen=True)
class InThisProcess(Launcher):
    """One task after another; ``run`` runs one."""

    run: Callable[[Task], None]

    def launch(self, tasks: Sequence[Task], on_end: OnEnd) -> TaskQueue:
        queue = TaskQueue(tasks)
        while (task := queue.start()) is not None:
            log.info("---- %s of %s", task.name, task.network)
            failure = None
            try:
                self.run(task)
            except Interrupted:
                raise
            except Exception as error:  # noqa: BLE001 - reported at the end; others can still run
                reason = str(error) or type(error).__name__
                failure = Failure(reason, wrong_input=isinstance(error, UserError))
                log.warning("---- %s failed: %s", task.key, reason)
            queue.end(task.key, failure)
            on_end(task)
        return queue


@dataclass(frozen=True)
class SideBySide(Launcher):
    """Several tasks at a time, one in each place."""

    command: SuiteCommand
    places: Sequence[Place]

    def launch(self, tasks: Sequence[Task], on_end: OnEnd) -> TaskQueue:
        queue = TaskQueue(tasks)

        def start(task: Task, place: Place) -> Process:
            key = task.key
            return Process(self.command.python(key), place.environment(), self.command.log(key))

        run_side_by_side(queue, start, self.places, on_end)
        return queue
