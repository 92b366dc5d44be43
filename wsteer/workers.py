"""Work spread over threads, each on one core: torch and file reads release the interpreter's lock."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count() -> int:
    """The cores that this process may use, eight at most: streaming is bound by memory and disk beyond that."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


def in_order(function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 2) -> Iterator[Result]:
    """`function` of each item, computed on several threads, yielded in the items' order.

    At most `ahead` results per thread wait to be taken, so that memory stays bounded. Within a worker torch uses one
    thread. An exception of `function` is raised here; work that has not begun is then dropped.
    """
    workers = worker_count()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= workers * ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(torch.get_num_threads())  # the workers' setting would be that of threads to come


@contextlib.contextmanager
def beside(function: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Compute `function` on a thread of its own while the `with` body, given what waits for its result, runs."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function).result
