"""Submit a script to a Slurm cluster; it is queued again when its time is up or it is preempted.

    python tools/submit.py --nodes 2 --gpus-per-node 8 --partition gpu --hours 24 -- \\
        pretrain/run.py --config configs/imagenet_r50_msbreg.yaml --data IMAGENET --output runs/r50
    python tools/submit.py --local --gpus-per-node 2 -- transfer/knn.py --checkpoint FILE --data DATA

The options of the script, its cards and its paths are checked before the job is queued. One process is
started per GPU. Shortly before the time limit, and at preemption, the script receives SIGTERM, saves a
checkpoint, and the job continues with the same command when it starts again. --check only checks. Requires
submitit (in the clone: pip install -e '.[slurm]'), except for --check. docs/examples/pretrain.sbatch does
the same without submitit. Exit code 0: submitted (with --local: done); 1: the local run failed; 2: an option
is wrong.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msbreg.run.errors import EXIT_INTERRUPTED, RunFailed, UserError, exit_codes
from msbreg.run.options import check_script
from tools.tool_parser import ToolParser

PREEMPTED = "USR2"
"""Submitit's signal before the time limit and at preemption. Slurm also sends it to the script, which must
ignore it: submitit tells the script to stop."""
SLURM_ONLY = ("partition", "account", "qos", "constraint")


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line: our own options, then ``--`` and the script with its options.

    Raises:
        UserError: an option is invalid, or something that the job needs is not installed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    parser = ToolParser(__doc__)
    parser.usage = "python tools/submit.py [OPTIONS] -- SCRIPT [OPTIONS OF THE SCRIPT]"
    whole: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--nodes", default=1, help="number of machines (1)", **whole)
    parser.add_argument("--gpus-per-node", default=1, help="GPUs of each machine (1)", **whole)
    parser.add_argument(
        "--processes-per-node", help="processes per machine (one per GPU; without GPUs, 1)", **whole
    )
    parser.add_argument("--cpus-per-process", default=8, help="cores per process (8)", **whole)
    parser.add_argument("--memory-gb", help="memory per machine (the cluster's default)", **whole)
    parser.add_argument("--hours", type=float, default=24.0, help="time limit (24)", metavar="X")
    for name in SLURM_ONLY:
        parser.add_argument(f"--{name}", help="as for sbatch (the cluster's default)")
    parser.add_argument("--name", help="name of the job (that of the script)")
    parser.add_argument(
        "--grace", default=180, help="seconds to save before the job is killed (180)", **whole
    )
    parser.add_argument(
        "--restarts", default=50, help="how often a run out of time is queued again (50)", **whole
    )
    parser.add_argument("--logs", type=Path, default=Path("runs/jobs"), help="folder (runs/jobs)")
    parser.add_argument("--local", action="store_true", help="run on this machine and wait")
    parser.add_argument("--check", action="store_true", help="check the options, submit nothing")
    options = parser.parse_args(words[:end])
    options.command = words[end + 1 :]
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    expect = {
        "nodes": (options.nodes >= 1, "at least 1"),
        "gpus_per_node": (options.gpus_per_node >= 0, "0 or more"),
        "processes_per_node": (options.processes_per_node != 0, "at least 1"),
        "cpus_per_process": (options.cpus_per_process >= 1, "at least 1"),
        "hours": (options.hours * 3600 > 2 * options.grace, "more than twice --grace"),
        "grace": (options.grace >= 1, "at least 1"),
        "restarts": (options.restarts >= 0, "0 or more"),
    }
    for name, (good, expected) in expect.items():
        if not good:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(options, name)}; expected {expected}")
    if not options.command:
        raise UserError(
            "no script was given; expected '--' and a script, such as -- pretrain/run.py"
        )
    script = Path(options.command[0])
    if script.suffix != ".py" or not script.is_file():
        what = "is not a Python file" if script.exists() else f"does not exist in {Path.cwd()}"
        raise UserError(f"{script} {what}; expected the path of a script, such as pretrain/run.py")
    if not check_script(script, options.command[1:]):
        print(f"{script} checks its options itself, when it starts")
    if options.check:
        return
    if importlib.util.find_spec("submitit") is None:
        raise UserError("submitit is not installed; run in the clone: pip install -e '.[slurm]'")
    if options.local and options.nodes > 1:
        raise UserError(f"--nodes is {options.nodes}, but --local runs on this machine alone")
    if not options.local and shutil.which("sbatch") is None:
        raise UserError(
            "sbatch not found; run this on a login node of the cluster, or with --local"
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


def submit(options: argparse.Namespace) -> Any:
    """Queue the job, or start it on this machine; returns submitit's job."""
    import submitit

    executor = submitit.AutoExecutor(
        folder=str(options.logs.expanduser().resolve() / "%j"),
        cluster="local" if options.local else "slurm",
        slurm_max_num_timeout=options.restarts,
        local_max_num_timeout=options.restarts,
    )
    settings = {f"slurm_{name}": getattr(options, name) for name in SLURM_ONLY}
    settings |= {"slurm_signal_delay_s": options.grace, "mem_gb": options.memory_gb}
    # Since Slurm 22.05, srun does not take over the number of cores from sbatch.
    settings["slurm_setup"] = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
    executor.update_parameters(
        name=options.name or Path(options.command[0]).stem,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        tasks_per_node=options.processes_per_node or max(1, options.gpus_per_node),
        cpus_per_task=options.cpus_per_process,
        timeout_min=round(options.hours * 60),
        stderr_to_stdout=True,
        **{name: value for name, value in settings.items() if value is not None},
    )
    return executor.submit(Launch(options.command, os.getcwd()))


def main() -> None:
    """Submit the job and print where its log is; with ``--local``, wait for its end.

    Raises:
        RunFailed: the local run failed.
    """
    options = read_options()
    if options.check:
        return
    import submitit  # here, because it is optional and takes a moment

    job = submit(options)
    print(f"job {job.job_id}: {' '.join(options.command)}\nlog: {job.paths.stdout}", flush=True)
    if options.local:
        try:
            job.results()
        except submitit.core.utils.UncompletedJobError as error:
            raise RunFailed(f"the job failed; its log: {job.paths.stdout}") from error
        print("done")


if __name__ == "__main__":
    with exit_codes():
        main()
