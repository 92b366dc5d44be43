"""Work spread over threads, each on one core: torch and file reads release the interpreter's lock."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # results per thread that may wait to be taken, which bounds memory


def worker_count() -> int:
    """The cores that this process may use, eight at most: beyond that, memory and disk limit streaming."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, computed on several threads, yielded in the items' order.

    At most `AHEAD` results per thread wait to be taken. Within a worker torch uses one thread. An exception of
    `function` is raised here; work that has not begun is then dropped.
    """
    workers = worker_count()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= workers * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(torch.get_num_threads())  # else later threads would get the workers' setting


@contextlib.contextmanager
def beside(function: Callable[[], R]) -> Iterator[Callable[[], R]]:
    """Compute `function` on its own thread during the `with` body, which gets a function that waits for the result."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function).result
