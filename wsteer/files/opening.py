"""Files opened for reading: regular files alone, pipes where rows are read; what was read is remembered for records."""

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from wsteer.errors import WsteerError

STANDARD_INPUT = ("-", "/dev/stdin")
BLOCK = 1 << 20
State = tuple[int, int, int, int]  # device, inode, size, time of the last change

_digests: dict[str, str] = {}  # of files and pipes that were read whole: the absolute path, the sha256
_states: dict[str, State] = {}  # of weight files whose header was read: they are read again, part by part


@contextlib.contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for reading; a WsteerError if it is missing, cannot be read, or is no regular file.

    A pipe would hang, and a device such as /dev/zero never ends.
    """
    try:
        # a pipe without a writer opens at once; for a regular file O_NONBLOCK has no effect
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise WsteerError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise WsteerError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise WsteerError(f"{path} cannot be read: it is {kind}; give a regular file")
    with open(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise WsteerError(f"{path} cannot be read: {error.strerror}") from None


def is_stream(reference: str | Path) -> bool:
    """Whether rows can be read from `reference` once only: `-`, which is standard input, or a pipe such as <(...)."""
    try:
        return str(reference) in STANDARD_INPUT or Path(reference).is_fifo()
    except (OSError, ValueError):  # no path at all
        return False


def check_streams(references: Iterable[str]) -> None:
    """Refuse a pipe that is named twice: the second reading would find nothing."""
    seen: dict[object, str] = {}
    for reference in filter(is_stream, references):
        try:
            state = os.fstat(sys.stdin.fileno()) if reference in STANDARD_INPUT else os.stat(reference)
            place: object = (state.st_dev, state.st_ino)
        except (AttributeError, OSError, ValueError):  # standard input is closed
            place = "-"
        if place in seen:
            raise WsteerError(f"{reference} is a pipe and is named twice, but can be read once; write it to a file")
        seen[place] = reference


def read_whole(path: str | Path, limit: int, stream: bool = False) -> bytes:
    """All bytes of a regular file, or of a pipe if a `stream` is allowed; their digest is kept for `digest_of`.

    Raises WsteerError beyond `limit` bytes.
    """
    if stream and is_stream(path):
        content = _of_stream(str(path), limit)
    else:
        with regular(Path(path)) as file:
            content = _limited(file, path, limit)
    _digests[os.path.abspath(path)] = hashlib.sha256(content).hexdigest()
    return content


def _of_stream(reference: str, limit: int) -> bytes:
    try:
        if reference in STANDARD_INPUT:
            return _limited(sys.stdin.buffer, reference, limit)
        with open(reference, "rb") as file:
            return _limited(file, reference, limit)
    except (AttributeError, OSError, ValueError) as error:  # closed, or of another user
        raise WsteerError(f"{reference} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _limited(file: BinaryIO, path: str | Path, limit: int) -> bytes:
    blocks, size = [], 0
    while block := file.read(min(BLOCK, limit + 1 - size)):
        blocks.append(block)
        size += len(block)
        if size > limit:
            raise WsteerError(f"{path} has more than {limit / 1e6:g} MB, the limit of its kind; is it the right one?")
    return b"".join(blocks)


def remember(path: Path, file: BinaryIO) -> None:
    """Keep the state of a weight file whose header is read, so that `digest_of` knows if it changes meanwhile."""
    _states[os.path.abspath(path)] = _state(file)


def check_unchanged(paths: Iterable[Path]) -> None:
    """Refuse weight files that have changed since their headers were read: what was computed mixes old and new."""
    for path in paths:
        with regular(path) as file:
            if _states.get(os.path.abspath(path), _state(file)) != _state(file):
                raise WsteerError(f"{path} changed while it was read; run again")


def digest_of(*paths: str | Path) -> str:
    """The sha256 of the files' bytes, one after the other: of the bytes that this process has read.

    A text, or a pipe, was read whole, so its digest is known. A weight file, whose parts are read again and again, is
    read here; a WsteerError says if it has changed since its header was read.
    """
    if len(paths) == 1 and (known := _digests.get(os.path.abspath(paths[0]))) is not None:
        return known
    digest = hashlib.sha256()
    for path in map(Path, paths):
        with regular(path) as file:
            before = _states.get(os.path.abspath(path), _state(file))
            while block := file.read(BLOCK):
                digest.update(block)
            if before != _state(file):
                raise WsteerError(f"{path} changed while it was read; run again")
    return digest.hexdigest()


def _state(file: BinaryIO) -> State:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
