"""Exceptions whose message is shown to the user without a traceback, and their exit codes."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL in sysexits.h, "try again": the same command continues the run
INTERRUPTED = "interrupted; run the same command to continue or start over."
"""The message if there is nothing to save."""


class UserError(ValueError):
    """Invalid user input.

    The message says what was given, what was expected and what to do. Scripts print only the message and
    exit with code 2.
    """


class RunFailed(Exception):
    """A run failed although its input is valid: it diverged, or ran out of memory or disk space.

    The message says where it failed, what is preserved and what to change. Scripts print only the message
    and exit with code 1; the traceback is stored in the record.
    """


class Interrupted(Exception):
    """The run received Ctrl-C or SIGTERM and has saved everything needed to continue."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known one; empty if none is similar.

    Leading hyphens are not compared.

    >>> did_you_mean("resnet5", ["resnet50", "vit"]), did_you_mean("--x", ["--resnet50", "--vit"])
    ('; did you mean resnet50?', '')
    """
    names = {other.lstrip("-"): other for other in known}
    similar = difflib.get_close_matches(name.lstrip("-"), names, 1)
    return f"; did you mean {names[similar[0]]}?" if similar else ""


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn known errors into one message and an exit code; other errors keep their traceback."""
    try:
        yield
    except UserError as error:
        exit_with(f"error: {error}", EXIT_USER_ERROR)
    except RunFailed as error:
        exit_with(f"error: {error}", EXIT_FAILED)
    except Interrupted as stop:
        exit_with(f"interrupted: {stop}", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        exit_with(INTERRUPTED, EXIT_INTERRUPTED)


def exit_with(message: str, code: int) -> NoReturn:
    """Print a message to standard error and exit.

    Of torchrun's processes with the same message, only one prints it.
    """

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    if "TORCHELASTIC_RUN_ID" in os.environ:
        from msbreg.run import distributed  # here, because it imports PyTorch, as torchrun has

        distributed.say_once(message, say)
    else:
        say(message)
    sys.exit(code)
