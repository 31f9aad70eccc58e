"""ToolParser: the command lines of tools/, with the conventions of the scripts."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from msbreg.run.errors import EXIT_USER_ERROR, UserError, exit_with
from msbreg.run.option_types import SEE_HELP, unknown_name


class ToolParser(argparse.ArgumentParser):
    """argparse with the conventions of the scripts: short errors, suggestions, and ``_`` for ``-``."""

    def __init__(self, doc: str | None) -> None:
        summary, _, rest = inspect.cleandoc(doc or "").partition("\n\n")
        super().__init__(
            description=summary,
            epilog=rest,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_runs(self) -> None:
        """Add RUNS, the folders of runs; ``check_runs`` checks them."""
        self.add_argument(
            "runs",
            nargs="+",
            type=Path,
            metavar="RUNS",
            help="folder of a run, or a folder that contains runs",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Replace underscores in option names by hyphens before parsing."""
        argv = [self._hyphenated(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(argv, namespace)

    def _hyphenated(self, word: str) -> str:
        name, equals, value = word.partition("=")
        return name.replace("_", "-") + equals + value if word.startswith("--") else word

    def error(self, message: str) -> NoReturn:
        """Print one message and exit with code 2."""
        if unknown := re.fullmatch(r"unrecognized arguments: (--[\w-]+).*", message):
            names = [name for action in self._actions for name in action.option_strings]
            message = unknown_name(unknown[1], names)
        exit_with(f"error: {message}\n{SEE_HELP}", EXIT_USER_ERROR)


def check_runs(paths: Iterable[Path]) -> None:
    """Check that the folders of runs exist.

    Raises:
        UserError: one does not.
    """
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} does not exist; expected the folder of a run, or a folder that contains runs"
            )
