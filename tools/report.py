"""The report: every record at or below the given folders -> report.md and one report.html.

python tools/report.py runs/suite runs/pretrain --output runs/report
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import EXIT_USER_ERROR
from msbreg.run.errors import UserError
from transfer.report.render import write_report

__all__ = ["main", "write_report"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, write the report, say where it is."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUNS",
        help="The folder of a run, or one that holds the folders of runs.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/report"),
        metavar="DIR",
        help="Folder for report.md and report.html; what it held of them is replaced (default: %(default)s).",
    )
    given = parser.parse_args(arguments)
    try:
        page = write_report(given.runs, given.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    print(f"{page}\n{page.with_name('report.md')}")


if __name__ == "__main__":
    main()
