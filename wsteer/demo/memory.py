"""The memory of one command after the other in a process: what is free given back, the peak measured anew."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

RESET = Path("/proc/self/clear_refs")  # of Linux: "5" sets the peak to what is held now


def return_memory() -> None:
    """Give memory that is free back to the system.

    glibc keeps what a command's tensors leave, in pieces too small for the next command's, which come on top.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    """Measure the peak anew from here on, where the system can; else it stays that of the process so far."""
    with contextlib.suppress(OSError):
        RESET.write_text("5")


def peak_memory() -> int:
    """The process's peak resident set, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
