"""The launcher that the options of a suite choose."""

import os
from pathlib import Path

import torch

from msbreg.run import distributed
from msbreg.run.errors import UserError
from transfer.orchestration.launchers.launcher import Launcher, save_command
from transfer.orchestration.launchers.local_launcher import InThisProcess, SideBySide, Torchrun
from transfer.orchestration.launchers.side_by_side import places
from transfer.orchestration.launchers.slurm_launcher import Slurm
from transfer.orchestration.suite_config import Config


def launcher_of(config: Config, script: Path) -> Launcher:
    """The launcher of a suite.

    Without options: one task per GPU at a time if there are several GPUs, otherwise one after another in
    this process.

    Args:
        script: transfer/suite.py, which the launchers start.

    Raises:
        UserError: torchrun has started this process, and another launcher or several tasks were asked for.
    """
    if distributed.world_size() > 1:
        if config.launcher != "local" or config.jobs not in (None, 1):
            raise UserError(
                "this suite was started with torchrun, which runs every task in all of its processes; omit "
                "--launcher and --jobs, or start it without torchrun"
            )
        return InThisProcess()
    if config.launcher == "local" and tasks_at_once(config) == 1:
        return InThisProcess()
    command = save_command(config, script, config.folder)
    if config.launcher == "slurm":
        return Slurm(command, config.slurm)
    processes = processes_of_task(config)
    where = places(tasks_at_once(config), gpus=usable_gpus(config.device), processes=processes)
    if config.launcher == "torchrun":
        return Torchrun(command, where, processes)
    return SideBySide(command, where)


def processes_of_task(config: Config) -> int:
    """Processes of each task on this machine; 1 without torchrun."""
    if config.launcher != "torchrun":
        return 1
    return config.processes_per_task or max(1, len(usable_gpus(config.device)))


def tasks_at_once(config: Config) -> int:
    """Number of tasks that run at the same time on this machine."""
    if config.launcher == "slurm":
        return 1
    gpus = len(usable_gpus(config.device))
    return config.jobs or max(1, gpus // processes_of_task(config))


def usable_gpus(device: str) -> list[str]:
    """Names of the GPUs that tasks can be given, as in CUDA_VISIBLE_DEVICES.

    >>> usable_gpus("cpu")
    []
    """
    if device not in ("auto", "cuda"):
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",") if given else list(map(str, range(count)))
    return names[:count]
