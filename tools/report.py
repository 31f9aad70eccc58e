"""Write a report of every record in the given folders and their subfolders.

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
from tools.tool_parser import ToolParser, check_runs
from transfer.report.exports.file_names import FILES


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: a path does not exist, or the options do not go together.
    """
    parser = ToolParser(__doc__)
    parser.add_runs()
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/report"),
        metavar="DIR",
        help="folder for the files of the report, which are replaced (default: %(default)s)",
    )
    parser.add_argument(
        "--formats",
        type=lambda text: text.split(","),
        default=list(FILES),
        metavar="LIST",
        help=f"which files to write, separated by commas (default: {','.join(FILES)})",
    )
    options = parser.parse_args(arguments)
    check_runs(options.runs)
    unknown = [name for name in options.formats if name not in FILES]
    if unknown or len(set(options.formats)) < len(options.formats):
        raise UserError(
            f"--formats is {','.join(options.formats)}; expected different ones of {','.join(FILES)}"
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
        write_report(options.runs, options.output, options.formats)
    print("\n".join(str(options.output / FILES[name]) for name in options.formats))


if __name__ == "__main__":
    main()
