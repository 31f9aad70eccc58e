"""Send completed runs to Weights & Biases or MLflow, from their records. A sent run is not sent again.

    python tools/publish.py runs/suite --to wandb --project backbones
    WANDB_MODE=offline python tools/publish.py runs/suite --to wandb
    MLFLOW_TRACKING_URI=http://localhost:5000 python tools/publish.py runs/suite --to mlflow

Settings become the config, scores the metrics (named by data, score and rules), curve.jsonl the history, and
record.json an artifact. Requires wandb or mlflow (in the clone: pip install -e '.[wandb]' or '.[mlflow]').
Exit code 0: all completed runs that can be read are there, the others are listed as left out; 2: an option is
wrong, or the service refuses.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib.util
from collections.abc import Sequence

from msbreg.run.errors import UserError, exit_codes
from tools.tool_parser import ToolParser, check_runs

SERVICES = ("wandb", "mlflow")


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: a path does not exist, or the library of the service is not installed.
    """
    parser = ToolParser(__doc__)
    parser.add_runs()
    parser.add_argument("--to", choices=SERVICES, required=True, help="the service")
    parser.add_argument(
        "--project",
        default="msbreg",
        metavar="P",
        help="project of wandb, experiment of MLflow (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    check_runs(options.runs)
    if importlib.util.find_spec(options.to) is None:
        raise UserError(
            f"{options.to} is not installed; expected, in the clone: pip install -e '.[{options.to}]'"
        )
    return options


if __name__ == "__main__":  # options and paths are checked before PyTorch is imported
    with exit_codes():
        read_options()

from tools.sinks.finished_run import Sink, finished_runs


def open_sink(service: str, project: str) -> Sink:
    """A project of a service, whose library is imported only now.

    Raises:
        UserError: the service cannot be used.
    """
    if service == "wandb":
        from tools.sinks.wandb_sink import WandbSink

        return WandbSink(project)
    from tools.sinks.mlflow_sink import MlflowSink

    return MlflowSink(project)


def publish(runs: Sequence[Path], sink: Sink) -> dict[str, int]:
    """Send the runs, with one line for each; returns how many were sent, sent before, or left out."""
    counts = {"sent": 0, "sent before": 0, "left out": 0}
    for run in finished_runs(runs):
        if isinstance(run, str):
            counts["left out"] += 1
            print(f"left out     {run}")
        elif sink.has(run):
            counts["sent before"] += 1
            print(f"sent before  {run.folder} ({run.id})")
        else:
            where = sink.send(run)
            counts["sent"] += 1
            print(f"sent         {run.folder} -> {where}")
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, send the runs, and print how many."""
    with exit_codes():
        options = read_options(arguments)
        counts = publish(options.runs, open_sink(options.to, options.project))
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
