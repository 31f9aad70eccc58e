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
from collections.abc import Sequence
from typing import Any

from msbreg.run.errors import UserError, exit_codes
from msbreg.run.options import check_script
from tools.tool_parser import ToolParser
from transfer.orchestration.launchers.slurm_job import (
    SlurmSettings,
    check_installed,
    submit,
    wait_for,
)

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
    settings_of(options)
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
    if options.local and options.nodes > 1:
        raise UserError(f"--nodes is {options.nodes}, but --local runs on this machine alone")
    check_installed(local=options.local)


def settings_of(options: argparse.Namespace) -> SlurmSettings:
    """What the job gets.

    Raises:
        UserError: an option has an invalid value.
    """
    given = vars(options)
    names = SlurmSettings.__dataclass_fields__
    return SlurmSettings(**{name: given[name] for name in names})


def main() -> None:
    """Submit the job and print where its log is; with ``--local``, wait for its end.

    Raises:
        RunFailed: the local run failed.
    """
    options = read_options()
    if options.check:
        return
    job = submit(
        options.command,
        settings_of(options),
        name=options.name or Path(options.command[0]).stem,
        logs=options.logs,
        local=options.local,
    )
    print(f"job {job.job_id}: {' '.join(options.command)}\nlog: {job.paths.stdout}", flush=True)
    if options.local:
        wait_for(job)
        print("done")


if __name__ == "__main__":
    with exit_codes():
        main()
