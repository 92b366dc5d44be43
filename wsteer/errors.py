"""The exceptions that wsteer shows as a message instead of a traceback, and the short form of others."""


class WsteerError(Exception):
    """An expected failure: one line that says what is wrong, where, and how to fix it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says what it left."""


def reason(error: BaseException) -> str:
    """The first line of another library's error message, or the error's type if the message is empty.

    >>> reason(ValueError("no such split\\nsee the documentation")), reason(KeyError())
    ('no such split', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
