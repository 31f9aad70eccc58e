"""The exceptions whose message is all that a user has to see, and the exit codes that go with them."""

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again"; the same command continues the run


class UserError(ValueError):
    """Something that the user gave cannot be used.

    The message says what was given, what was expected and what to do. Entry points print it alone,
    without a traceback, and exit with code 2.
    """


class RunFailed(Exception):
    """A run cannot go on although its input is fine: it diverged, or memory or disk space ran out.

    The message says where, what is kept and what to change. Entry points print it alone, without a
    traceback (which the record keeps), and exit with code 1.
    """


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved all that it needs to go on."""
