"""Exceptions whose message is shown to the user without a traceback, and their exit codes."""

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL in sysexits.h, "try again": the same command continues the run


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
