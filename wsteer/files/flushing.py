"""Files on the disk itself: a name must not outlive a power cut that its content does not."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsteer.files.text import write_json

PARTIAL = ".wsteer.partial"  # the end of a temporary name
SECONDS = 0.05  # between flushes of files that are being written


@contextlib.contextmanager
def flushing(descriptors: Sequence[int]) -> Iterator[None]:
    """Flush open files while the `with` body writes them, and once more at its end, when little is left to wait for."""
    over = threading.Event()

    def flush_again() -> None:
        while not over.wait(SECONDS):
            for descriptor in descriptors:
                os.fsync(descriptor)

    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(flush_again)
        try:
            yield
        finally:
            over.set()
        flushed.result()  # a disk that failed meanwhile tells it once
    for descriptor in descriptors:
        os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until all files of the folder, and their names, are on the disk."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_flush, files))
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        flush_names(path)


def flush_names(folder: Path) -> None:
    """Wait until the names in the folder are on the disk; not every file system can flush a folder."""
    with contextlib.suppress(OSError):
        _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_json(path: Path, value: object) -> None:
    """Write `value` as JSON over a file of a folder that grows; a run that is killed meanwhile leaves the old one."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    write_json(partial, value)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
