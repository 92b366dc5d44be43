"""A training folder followed while it grows: each checkpoint measured once it is complete, until an end."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from matplotlib.figure import Figure

from wsteer.deltas.inputs import checkpoints_in
from wsteer.errors import WsteerError
from wsteer.files.pictures import save
from wsteer.monitoring.gates import Failure
from wsteer.progress import Note

T = TypeVar("T")
LINES = "trajectory.jsonl"
ENDS = (".png", ".svg")


def written(*names: str) -> list[str]:
    """The files that following a run may leave: of pictures of these names, and of what is being drawn."""
    return [LINES, "trajectory.csv", "drawing.csv", *(f"{name}{end}" for name in (*names, "drawing") for end in ENDS)]


class Incomplete(Exception):
    """A checkpoint cannot be measured yet; its text says why."""


class Following(Generic[T]):
    """The checkpoints of a run, one by one as they appear.

    `measure` gives what is found of a checkpoint (its step, its folder) or raises `Incomplete`, which is noted once for
    each reason, and the checkpoint is tried again. `steps` are those that were measured.
    """

    def __init__(self, run: Path, measure: Callable[[int, Path], T], note: Note) -> None:
        self.run, self.measure, self.note = run, measure, note
        self.steps: list[int] = []
        self._waiting: dict[int, str] = {}

    def reached(self, step: int | None) -> bool:
        """Whether a checkpoint of this step or a later one was measured."""
        return step is not None and any(each >= step for each in self.steps)

    def look(self) -> Iterator[T]:
        """What is found of each new checkpoint."""
        for step, path in checkpoints_in(self.run).items():
            if step not in self.steps and (found := self._complete(step, path)) is not None:
                self.steps.append(step)
                yield found

    def _complete(self, step: int, path: Path) -> T | None:
        try:
            return self.measure(step, path)
        except Incomplete as error:
            if self._waiting.get(step) != str(error):
                self._waiting[step] = str(error)
                self.note(f"step {step}: not complete yet ({error})")
            return None


def check_followed(run: str | Path, interval: float) -> None:
    """Refuse what cannot be followed."""
    if not 0 < interval < math.inf:
        raise WsteerError(f"interval={interval}: a number of seconds above 0 is needed")
    if not Path(run).is_dir():
        raise WsteerError(f"{run} does not exist or is no folder; --watch follows a training folder")


def follow(
    following: Following[T],
    until_step: int | None,
    interval: float,
    seen: Callable[[T], Sequence[Failure]],
    draw: Callable[[], None],
) -> tuple[tuple[Failure, ...], bool]:
    """Look every `interval` seconds until `until_step`, a broken gate or Ctrl-C.

    Each checkpoint's find is given to `seen`, which writes it and gives the gates that it breaks; then `draw` draws all
    of them. Gives the gates that broke, and whether Ctrl-C ended it.
    """
    failures: tuple[Failure, ...] = ()
    try:
        while not failures and not following.reached(until_step):
            for found in following.look():
                failures += tuple(seen(found))
                draw()
                if failures or following.reached(until_step):
                    break
            else:
                time.sleep(interval)
    except KeyboardInterrupt:
        if following.steps:
            draw()  # Ctrl-C may have interrupted the last drawing
        return failures, True
    return failures, False


def add_line(output: Path, fields: Mapping[str, object]) -> None:
    """Append one checkpoint's find to trajectory.jsonl."""
    with open(output / LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps(fields, allow_nan=False, ensure_ascii=False) + "\n")


def replace_picture(output: Path, figure: Figure, name: str = "trajectory") -> None:
    """Draw to another file, then replace the old picture, so a reader always sees a complete one."""
    save(figure, output / "drawing.png", svg=True)
    for end in ENDS:
        os.replace(output / f"drawing{end}", output / f"{name}{end}")


def replace_table(output: Path, write: Callable[[Path], None]) -> None:
    """Write to another file, then replace the old trajectory.csv."""
    write(output / "drawing.csv")
    os.replace(output / "drawing.csv", output / "trajectory.csv")
