"""Checks of the options that say where the tasks of a suite run. Imports no PyTorch."""

from typing import Any, Literal

from msbreg.run.errors import UserError
from transfer.orchestration.launchers.slurm_job import SlurmSettings

LauncherName = Literal["local", "torchrun", "slurm"]


def check_launch(config: Any) -> None:
    """Check the options of the launchers and of ``--watch`` against each other.

    Args:
        config: the suite's.

    Raises:
        UserError: a number is too small, or two options exclude each other.
    """
    for name in ("jobs", "processes_per_task"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    if config.processes_per_task is not None and config.launcher != "torchrun":
        raise UserError(
            f"processes_per_task is {config.processes_per_task}, but launcher is {config.launcher}; "
            "expected --launcher torchrun"
        )
    if config.launcher == "slurm" and config.jobs is not None:
        raise UserError(
            f"jobs is {config.jobs}, but launcher is slurm, which decides when each job starts; omit --jobs"
        )
    if config.launcher != "slurm" and config.slurm != SlurmSettings():
        raise UserError(
            f"slurm settings are given, but launcher is {config.launcher}; expected --launcher slurm"
        )
    several = config.jobs not in (None, 1)
    if config.device.startswith("cuda:") and (several or config.launcher == "torchrun"):
        raise UserError(
            f"device is {config.device}, but several processes share the GPUs; expected --device cuda or auto"
        )
    if config.once and config.watch is None:
        raise UserError("once needs a training run to look at; expected --watch FOLDER")
    if config.watch is not None and (config.checkpoint or config.checkpoints or config.smoke):
        raise UserError(
            "watch evaluates the backbones of a training run; omit --checkpoint, --checkpoints and --smoke"
        )
    if config.watch is not None and config.launcher == "slurm" and not config.once:
        raise UserError(
            "watch waits for new backbones, but with launcher slurm the suite ends when its jobs are queued; "
            "add --once, or use another launcher"
        )
