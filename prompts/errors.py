"""The one exception that means "the person who asked can put this right"."""


class UserError(ValueError):
    """Bad input: the message says what was wrong and what to do, in one line.

    The command line prints it and exits with 2; the HTTP server answers 400 with it. It lives in the lowest
    package so that every other one can raise it.
    """


def first_line(error: Exception) -> str:
    """What an error says first; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
