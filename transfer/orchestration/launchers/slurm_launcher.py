"""Queue each task as a job of a Slurm cluster, and a last job that writes the report."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from msbreg.run.job import log
from transfer.orchestration.launchers.launcher import REPORT, Launcher, OnEnd, SuiteCommand
from transfer.orchestration.launchers.slurm_job import Dependency, SlurmSettings, submit
from transfer.orchestration.task import Task
from transfer.orchestration.task_queue import TaskQueue


@dataclass(frozen=True)
class Slurm(Launcher):
    """One job per task, named after its key. This process does not wait for them."""

    command: SuiteCommand
    settings: SlurmSettings

    def launch(self, tasks: Sequence[Task], on_end: OnEnd) -> TaskQueue:
        """Queue all tasks; the tasks of the returned queue are still waiting.

        A job starts when those of its needs have succeeded, and is canceled if one fails.
        """
        ids: dict[str, str] = {}
        for task in tasks:
            needs = [ids[need] for need in task.needs if need in ids]
            ids[task.key] = self._submit(task.key, self.settings, Dependency(needs))
        alone = dataclasses.replace(self.settings, nodes=1, gpus_per_node=0, processes_per_node=1)
        self._submit(REPORT, alone, Dependency([*ids.values()], succeed=False))
        return TaskQueue(tasks)

    def _submit(self, key: str, settings: SlurmSettings, after: Dependency) -> str:
        job = submit(
            self.command.words(key),
            settings,
            name=key,
            logs=self.command.card.parent,
            after=after,
        )
        log.info("job %s: %s, log %s", job.job_id, key, job.paths.stdout)
        return str(job.job_id)
