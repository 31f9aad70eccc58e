"""The one exception that means "the input was wrong", not "the program is"."""


class UserError(ValueError):
    """Something that the user gave cannot be used.

    The message says what was given, what was expected and what to do. Entry points print it alone,
    without a traceback, and exit with code 2.
    """
