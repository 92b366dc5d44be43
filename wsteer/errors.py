"""The exceptions that wsteer shows as a message instead of a traceback, and what other libraries raise as them."""

import contextlib
from collections.abc import Iterator


class WsteerError(Exception):
    """An expected failure: one line that says what is wrong, where, and how to fix it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory is short, in Python's way or in torch's."""
    # by name: importing torch takes long
    ours = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return ours or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says what it left."""


def reason(error: BaseException) -> str:
    """The first line of another library's error message, or the error's type if the message is empty.

    >>> reason(ValueError("no such split\\nsee the documentation")), reason(KeyError())
    ('no such split', 'KeyError')
    >>> reason(ValueError("Validation error:\\n  a number is needed"))
    'Validation error: a number is needed'
    >>> reason(SystemExit(3))
    'its code ends the program, by sys.exit(3)'
    """
    if isinstance(error, SystemExit):
        return f"its code ends the program, by sys.exit({error.code!r})"
    first, *others = filter(None, map(str.strip, (str(error).strip() or type(error).__name__).splitlines()))
    return f"{first} {others[0]}" if others and first.endswith(":") else first


@contextlib.contextmanager
def one_error(what: str) -> Iterator[None]:
    """Turn whatever another library raises in the `with` body into the WsteerError `what: reason`."""
    try:
        yield
    except WsteerError:
        raise
    except Exception as error:  # the user's files can make libraries raise anything
        raise WsteerError(f"{what}: {reason(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a library in Rust; it is no Exception
            raise
        raise WsteerError(f"{what}: {reason(error)}") from None
