"""The one exception that wsteer shows as a message instead of a traceback, and the short form of others."""


class WsteerError(Exception):
    """An expected failure: one line that says what is wrong, where, and how to mend it."""


def reason(error: BaseException) -> str:
    """The first line of what another library says went wrong, or the error's type where it says nothing.

    >>> reason(ValueError("no such split\\nsee the documentation")), reason(KeyError())
    ('no such split', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
