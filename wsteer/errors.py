"""The one exception that wsteer shows as a message instead of a traceback."""


class WsteerError(Exception):
    """An expected failure: one line that says what is wrong, where, and how to mend it."""
