"""The exceptions whose message is all that a user has to see."""


class UserError(ValueError):
    """Something that the user gave cannot be used.

    The message says what was given, what was expected and what to do. Entry points print it alone,
    without a traceback, and exit with code 2.
    """


class RunFailed(Exception):
    """A run cannot go on although nothing given is malformed: it diverged, or memory ran out.

    The message says where, what is kept and what to change. Entry points print it alone, without a
    traceback (which the record keeps), and exit with code 1.
    """


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved all that it needs to go on."""
