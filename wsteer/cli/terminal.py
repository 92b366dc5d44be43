"""What reaches the terminal: text without control characters, in any encoding, until its reader is gone."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from wsteer.errors import WsteerError
from wsteer.files.text import escaped

CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended


def one_line(text: str) -> str:
    r"""`escaped` text whose newlines are shown as `\n`, so that it cannot forge a line of ours."""
    return escaped(text).replace("\n", "\\n")


class Escaped:
    """A text stream that writes what `escaped` gives.

    What the encoding lacks is written as an escape. Where the reader of a pipe is gone, the program ends as SIGPIPE
    would end it; a stdout that cannot be written otherwise, as on a full disk, is a WsteerError.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw
        if hasattr(raw, "reconfigure"):
            raw.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # typer would write to it, past this class, where the encoding is ASCII
            raise AttributeError(name)
        return getattr(self.raw, name)

    def write(self, text: str) -> int:
        """Write the text, its control characters escaped."""
        safe = escaped(text)
        if safe:  # typer writes an empty text to learn what a stream takes
            with self._handled():
                self.raw.write(safe)
        return len(text)

    def flush(self) -> None:
        """Write what is still held."""
        with self._handled():
            self.raw.flush()

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._silence()
            raise SystemExit(CLOSED_PIPE) from None
        except OSError as error:
            self._silence()
            if self is sys.stdout:
                raise WsteerError(f"the standard output cannot be written: {error.strerror}") from None

    def _silence(self) -> None:
        """Send the rest nowhere: else Python would try to write it at its end, and complain."""
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.raw.fileno())


def raw(stream: TextIO) -> TextIO:
    """The stream beneath, for text that is a terminal's commands, such as a progress bar."""
    return stream.raw if isinstance(stream, Escaped) else stream


def install() -> None:
    """Escape what this process writes, to its end; streams that the caller closed are replaced by nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # else the next file to be opened would take its number, and its output
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    sys.stdout, sys.stderr = (cast(TextIO, Escaped(raw(each))) for each in (sys.stdout, sys.stderr))


@contextlib.contextmanager
def escaped_streams() -> Iterator[None]:
    """Escape what the `with` body writes to stdout and stderr."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Escaped(raw(each))) for each in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
