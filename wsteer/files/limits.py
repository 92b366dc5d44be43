"""Limits of time and memory on what the content of an input makes run: regexes, templates, other libraries' parsers."""

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from wsteer.errors import WsteerError

SECONDS = 10.0  # far above what any honest regex or template takes
MATCHING = 5.0  # of a regex with all names of a model; honest ones take milliseconds
AGAIN = 0.05  # seconds between alarms, after the first
MEMORY = 2 << 30  # bytes, beyond what the process has taken already


class _TimeOver(BaseException):
    """Not an Exception, so that no library takes it for an error of its own and goes on."""


@contextlib.contextmanager
def bounded(what: str, seconds: float = SECONDS, memory: int | None = MEMORY) -> Iterator[None]:
    """Run the `with` body; raise WsteerError that names `what` if it takes more time or more new memory than given.

    Both are limited in the main thread only, since signals arrive there; the memory where the system has RLIMIT_AS and
    /proc (Linux). A MemoryError or RecursionError of the body is the same error. A limit inside another ends no later
    than that one does. Code that never returns to Python, as in a Rust library, is not stopped.
    """
    own = _TimeOver()
    try:
        with _timer(seconds, own), _memory_limit(memory):
            yield
    except _TimeOver as over:
        if over is not own:  # of a limit around this one, which names what took the time
            raise
        raise WsteerError(
            f"{what} takes more than {seconds:g} s; it would not end, or is made to harm: simplify or replace it"
        ) from None
    except MemoryError:
        raise WsteerError(
            f"{what} takes too much memory; it is made to harm, or damaged: replace it, or free memory"
        ) from None
    except RecursionError:
        raise WsteerError(
            f"{what} takes too much depth; it is made to harm, or damaged: simplify or replace it"
        ) from None


@contextlib.contextmanager
def _timer(seconds: float, error: _TimeOver) -> Iterator[None]:
    """Raise `error` in the `with` body after so many seconds, unless a limit around it ends sooner."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    if 0 < left <= seconds:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        # between the body and the code that stops the timer nothing would catch the error; the alarm comes again
        if frame is None or frame.f_code.co_filename not in (__file__, contextlib.__file__):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise error

    before = signal.signal(signal.SIGALRM, over)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            remaining = left - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, remaining), interval)


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
