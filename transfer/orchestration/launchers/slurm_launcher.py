"""Queue each task as a job of a Slurm cluster, and a last job that writes the report."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msbreg.run.job import log
from transfer.orchestration.execution import Progress, is_due
from transfer.orchestration.launchers.launcher import REPORT, Launcher, SuiteCommand
from transfer.orchestration.launchers.slurm_job import Dependency, SlurmSettings, submit
from transfer.orchestration.task_graph import Plan
from transfer.orchestration.waiting import waits_for


@dataclass(frozen=True)
class Slurm(Launcher):
    """One job per task, named after its key. This process does not wait for them."""

    command: SuiteCommand
    settings: SlurmSettings

    def launch(
        self, plan: Plan, output: Path, *, anyway: bool, after_each: Callable[[], object]
    ) -> Progress:
        """Queue all tasks that are not done yet.

        A job starts when those that it waits for have succeeded, and is canceled if one fails.
        """
        progress, ids = Progress(), dict[str, str]()
        for task in plan.tasks:
            if is_due(task, plan, output, progress, anyway=anyway):
                before = [ids[key] for key in waits_for(task, plan.tasks) if key in ids]
                ids[task.key] = self._submit(task.key, self.settings, Dependency(before))
                progress.ends[task.key] = "queued"
        alone = dataclasses.replace(self.settings, nodes=1, gpus_per_node=0, processes_per_node=1)
        self._submit(REPORT, alone, Dependency([*ids.values()], succeed=False))
        return progress

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
