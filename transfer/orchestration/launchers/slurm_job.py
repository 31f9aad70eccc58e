"""Jobs of a Slurm cluster that run a script; the only module that imports submitit.

A job starts one process per GPU, which find each other as those of torchrun do. When its time is up or it is
preempted, the script receives SIGTERM, saves, and the job is queued again with the same command.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msbreg.run.errors import EXIT_INTERRUPTED, RunFailed, UserError

PREEMPTED = "USR2"
"""Submitit's signal before the time limit and at preemption. Slurm also sends it to the script, which must
ignore it: submitit tells the script to stop."""


@dataclass(frozen=True)
class SlurmSettings:
    """What a job of the cluster gets."""

    nodes: int = 1
    """Number of machines."""
    gpus_per_node: int = 1
    """GPUs of each machine."""
    processes_per_node: int | None = None
    """Processes per machine (null: one per GPU; without GPUs, 1)."""
    cpus_per_process: int = 8
    """Cores per process."""
    memory_gb: int | None = None
    """Memory per machine (null: the cluster's default)."""
    hours: float = 24.0
    """Time limit."""
    partition: str | None = None
    """As for sbatch (null: the cluster's default)."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    grace: int = 180
    """Seconds to save before the job is killed."""
    restarts: int = 50
    """How often a run out of time is queued again."""

    def __post_init__(self) -> None:
        expect = {
            "nodes": (self.nodes >= 1, "at least 1"),
            "gpus_per_node": (self.gpus_per_node >= 0, "0 or more"),
            "processes_per_node": (self.processes_per_node != 0, "at least 1"),
            "cpus_per_process": (self.cpus_per_process >= 1, "at least 1"),
            "hours": (self.hours * 3600 > 2 * self.grace, "more than twice --grace"),
            "grace": (self.grace >= 1, "at least 1"),
            "restarts": (self.restarts >= 0, "0 or more"),
        }
        for name, (good, expected) in expect.items():
            if not good:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {getattr(self, name)}; expected {expected}")


@dataclass(frozen=True)
class Dependency:
    """Jobs that must end before another starts.

    Attributes:
        jobs: their ids.
        succeed: whether they must succeed; otherwise the other job is canceled.
    """

    jobs: Sequence[str]
    succeed: bool = True

    def parameters(self) -> dict[str, Any]:
        """For submitit; empty if there are no such jobs."""
        if not self.jobs:
            return {}
        condition = "afterok" if self.succeed else "afterany"
        return {
            "slurm_dependency": ":".join([condition, *self.jobs]),
            "slurm_additional_parameters": {"kill_on_invalid_dep": "yes"},
        }


def check_installed(*, local: bool) -> None:
    """Check that jobs can be submitted from here.

    Args:
        local: whether they run on this machine, without Slurm.

    Raises:
        UserError: submitit is not installed, or this is not a machine of a cluster.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError("submitit is not installed; run in the clone: pip install -e '.[slurm]'")
    if not local and shutil.which("sbatch") is None:
        raise UserError(
            "sbatch not found; run this on a login node of the cluster, or on this machine alone with "
            "--local (tools/submit.py) or --launcher local (transfer/suite.py)"
        )


@dataclass
class Launch:
    """Runs a script as one process of the job; submitit calls it in every task.

    Attributes:
        command: the script and its options.
        folder: the folder to run it in.
    """

    command: list[str]
    folder: str
    pid: int = field(default=0, init=False)

    def __call__(self) -> None:
        """Run the script; it finds the other processes as those of torchrun do.

        Raises:
            RuntimeError: the script failed.
        """
        import submitit

        task = submitit.JobEnvironment()
        alone = task.num_nodes == 1
        port = 10000 + int("".join(filter(str.isdigit, task.job_id))[-9:]) % 20000
        group = {
            "RANK": task.global_rank,
            "LOCAL_RANK": task.local_rank,
            "WORLD_SIZE": task.num_tasks,
            "LOCAL_WORLD_SIZE": task.num_tasks // task.num_nodes,
            "MASTER_ADDR": "127.0.0.1" if alone else task.hostnames[0],
            "MASTER_PORT": port,
        }
        ignoring = ["sh", "-c", f"trap '' {PREEMPTED}; exec \"$@\"", "sh", sys.executable]
        # One thread per process unless the user chose another number, as with torchrun.
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        environment |= {name: str(value) for name, value in group.items()}
        child = subprocess.Popen([*ignoring, *self.command], cwd=self.folder, env=environment)
        self.pid = child.pid
        _wait(self.pid)
        code = child.wait()
        if code == EXIT_INTERRUPTED and task.global_rank > 0:
            print("stopped with the first process, which queues the job again", flush=True)
        elif code:
            raise RuntimeError(f"{self.command[0]} ended with exit code {code}")

    def checkpoint(self) -> Any:
        """Stop the script; submitit calls this in the first task, on its signal.

        The script's processes agree to stop, so it is enough to tell one of them.

        Returns:
            The job to queue again; None if the script ended otherwise.
        """
        import submitit

        if not self.pid:
            return submitit.helpers.DelayedSubmission(Launch(self.command, self.folder))
        os.kill(self.pid, signal.SIGTERM)
        if _wait(self.pid) != EXIT_INTERRUPTED:
            return None
        return submitit.helpers.DelayedSubmission(Launch(self.command, self.folder))


def _wait(pid: int) -> int:
    """The exit code of a child, which remains to be reaped.

    A signal handler may call this while the interrupted function waits for the same child.
    """
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status


def submit(
    command: Sequence[str],
    settings: SlurmSettings,
    *,
    name: str,
    logs: Path,
    local: bool = False,
    after: Dependency | None = None,
) -> Any:
    """Queue a job, or start it on this machine; returns submitit's job.

    Args:
        command: the script and its options.
        name: of the job.
        logs: folder of the jobs' logs, one folder per job.
    """
    import submitit
    from submitit.core.utils import cloudpickle

    # The job need not find this module: it may be of a clone that is not installed.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    executor = submitit.AutoExecutor(
        folder=str(logs.expanduser().resolve() / "%j"),
        cluster="local" if local else "slurm",
        slurm_max_num_timeout=settings.restarts,
        local_max_num_timeout=settings.restarts,
    )
    only = {
        f"slurm_{option}": getattr(settings, option)
        for option in ("partition", "account", "qos", "constraint")
    }
    only |= {"slurm_signal_delay_s": settings.grace, "mem_gb": settings.memory_gb}
    # Since Slurm 22.05, srun does not take over the number of cores from sbatch.
    only["slurm_setup"] = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
    only |= after.parameters() if after is not None else {}
    executor.update_parameters(
        name=name,
        nodes=settings.nodes,
        gpus_per_node=settings.gpus_per_node,
        tasks_per_node=settings.processes_per_node or max(1, settings.gpus_per_node),
        cpus_per_task=settings.cpus_per_process,
        timeout_min=round(settings.hours * 60),
        stderr_to_stdout=True,
        **{option: value for option, value in only.items() if value is not None},
    )
    return executor.submit(Launch(list(command), os.getcwd()))


def wait_for(job: Any) -> None:
    """Wait for the end of a job.

    Raises:
        RunFailed: it failed.
    """
    import submitit

    try:
        job.results()
    except submitit.core.utils.UncompletedJobError as error:
        raise RunFailed(f"the job failed; its log: {job.paths.stdout}") from error
