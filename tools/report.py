"""Write report.md and report.html from every record in the given folders and their subfolders.

python tools/report.py runs/suite runs/pretrain --output runs/report
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.errors import UserError, exit_codes
from msbreg.run.inputs import check_output
from tools.tool_parser import ToolParser


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: a path does not exist, or the options do not go together.
    """
    parser = ToolParser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUNS",
        help="folder of a run, or a folder that contains runs",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/report"),
        metavar="DIR",
        help="folder for report.md and report.html, which are replaced (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    for path in options.runs:
        if not path.exists():
            raise UserError(
                f"{path} does not exist; expected the folder of a run, or a folder that contains runs"
            )
    check_output(options.output)
    return options


if __name__ == "__main__":  # options and paths are checked before PyTorch is imported
    with exit_codes():
        read_options()

from transfer.report.render import write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, write the report, and print its path."""
    with exit_codes():
        options = read_options(arguments)
        page = write_report(options.runs, options.output)
    print(f"{page}\n{page.with_name('report.md')}")


if __name__ == "__main__":
    main()
