"""Limits of time and memory on what the content of an input makes run: regexes, templates, other libraries' parsers."""

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from wsteer.errors import WsteerError

SECONDS = 10.0  # far above what any honest regex or template takes
MATCHING = 5.0  # of a regex with all names of a model; honest ones take milliseconds
MEMORY = 2 << 30  # bytes, beyond what the process has taken already


class _TimeOver(BaseException):
    """Not an Exception, so that no library takes it for an error of its own and goes on."""


@contextlib.contextmanager
def bounded(what: str, seconds: float = SECONDS, memory: int | None = MEMORY) -> Iterator[None]:
    """Run the `with` body; raise WsteerError that names `what` if it takes more time or more new memory than given.

    Both are limited in the main thread only, since signals arrive there; the memory where the system has RLIMIT_AS and
    /proc (Linux). A MemoryError or RecursionError of the body is the same error. Code that never returns
    to Python, as in a Rust library, is not stopped.
    """
    try:
        with _timer(seconds), _memory_limit(memory):
            yield
    except _TimeOver:
        raise WsteerError(f"{what} takes more than {seconds:g} s; it would not end, or is made to harm") from None
    except (MemoryError, RecursionError) as error:
        kind = "memory" if isinstance(error, MemoryError) else "depth"
        raise WsteerError(f"{what} takes too much {kind}; it is made to harm, or damaged") from None


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise _TimeOver

    before = signal.signal(signal.SIGALRM, over)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # 0 unless the caller had a timer of its own
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory_limit(memory: int | None) -> Iterator[None]:
    # of the whole process: two threads would restore it in the wrong order
    in_main = threading.current_thread() is threading.main_thread()
    taken = _address_space() if memory is not None and in_main else None
    if memory is None or taken is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = taken + memory
    wanted = min([wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int | None:
    """The process's address space in bytes, None where the system does not tell. Quick: it is read for every row."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statistics:
            return int(statistics.read().split()[0]) * resource.getpagesize()
    except OSError:
        return None
