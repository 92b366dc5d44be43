"""What reaches the terminal: text without control characters, in any encoding, until its reader is gone."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from wsteer.errors import WsteerError

CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended
# C0 without tab and newline, DEL, C1, marks and overrides of direction, line and paragraph separators, half pairs
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""`text` with control characters as a Python literal has them, and bytes of names that are not UTF-8 as `\xff`.

    >>> print(escaped("a\x1b[2Jb\u202ec\udcff"))
    a\x1b[2Jb\u202ec\xff
    """
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    r"""`escaped` text whose newlines are shown as `\n`, so that it cannot forge a line of ours."""
    return escaped(text).replace("\n", "\\n")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
