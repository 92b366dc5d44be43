"""Interrupting a run at a step, and comparing what it left."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(output: Path) -> list[Path]:
    """What a run beside `output` left under temporary names."""
    return sorted(output.parent.glob(f".{output.name}.*"))


def interrupting(stage: str, step: int, act: Callable[[], None]) -> Callable:
    """A `progress` that calls `act` when the stage comes to `step`."""

    def progress(items: Iterable, label: str, total: int | None = None) -> Iterator:
        for i, item in enumerate(items):
            if label == stage and i == step:
                act()
            yield item

    return progress


def press_ctrl_c() -> None:
    """Interrupt this process."""
    os.kill(os.getpid(), signal.SIGINT)
