"""Follow a training run: when a checkpoint appears, its cosines are appended to a file and the picture is redrawn."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.deltas.gram import grouped_sums
from wsteer.deltas.inputs import checkpoints_in
from wsteer.errors import WsteerError
from wsteer.files.pictures import save
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import check_output, growing_folder
from wsteer.monitoring.gates import Failure
from wsteer.monitoring.items import (
    Item,
    checkpoint_item,
    comparable,
    in_tables,
    listed,
    open_items,
    place_of,
    short_names,
)
from wsteer.monitoring.monitor import Settings
from wsteer.monitoring.pictures import trajectory_picture
from wsteer.monitoring.similarity import Similarity, similarity
from wsteer.monitoring.trajectories import (
    Point,
    Scores,
    Trajectory,
    points,
    read_scores,
    trajectory,
    write_trajectories,
)
from wsteer.progress import Note, unsaid

LINES = "trajectory.jsonl"
ENDS = (".png", ".svg", ".csv")
FILES = (RECORD, LINES, *(f"{name}{end}" for name in ("trajectory", "drawing") for end in ENDS))


@dataclass(frozen=True)
class WatchReport:
    """What `monitor --watch` saw until it ended; `interrupted` by Ctrl-C."""

    output: str
    trajectory: Trajectory | None
    failures: tuple[Failure, ...]
    interrupted: bool


def watch(
    deltas: str | Path | Sequence[str | Path],
    run: str | Path,
    output: str | Path,
    settings: Settings | None = None,
    *,
    until_step: int | None = None,
    interval: float = 10.0,
    force: bool = False,
    note: Note = unsaid,
) -> WatchReport:
    """Follow the training folder `run` until `until_step`, a broken gate or Ctrl-C; check it every `interval` seconds.

    Each checkpoint's cosines become a line of `trajectory.jsonl` in `output`, a call of `note` and a point of
    `trajectory.png`. A checkpoint that is not complete is tried again. Raises WsteerError if the folder does not exist,
    or its changes cannot be compared with the deltas.
    """
    settings = settings or Settings()
    deltas, output = listed(deltas), Path(output)
    if not deltas:
        raise WsteerError("watch needs one delta or more to compare with")
    if not 0 < interval < math.inf:
        raise WsteerError(f"interval={interval}: a number of seconds above 0 is needed")
    if not Path(run).is_dir():
        raise WsteerError(f"{run} does not exist or is no folder; --watch follows a training folder")
    check_output(output, force, folder=True, inputs=[*deltas, run, *settings.read])
    base = open_checkpoint(settings.base) if settings.base is not None else None
    names = dict(zip(map(place_of, map(str, deltas)), short_names([str(path) for path in deltas]), strict=True))
    columns = in_tables(open_items(deltas, "DELTA", names, base, settings.selection))
    settings.gates.check_names([item.name for item in columns])
    seen = _Seen(Path(run), columns, base, settings, note)
    scores = read_scores(settings.scores) if settings.scores else None
    inputs = [item.input.source for item in columns]
    with growing_folder(output, force, record("monitor", settings.options, inputs), FILES):
        failures, interrupted = _follow(seen, output, scores, until_step, interval)
    return WatchReport(str(output), seen.trajectory if seen.points else None, failures, interrupted)


def _follow(
    seen: "_Seen", output: Path, scores: Scores | None, until_step: int | None, interval: float
) -> tuple[tuple[Failure, ...], bool]:
    """Look until the end: the gates that broke, and whether Ctrl-C ended it."""
    failures: tuple[Failure, ...] = ()
    (output / LINES).touch()
    try:
        while not failures and not seen.reached(until_step):
            for table in seen.look():
                failures += seen.settings.gates.failures(table.measured())
                _append(output, seen.points[-1], table)
                seen.note(_line(seen.points[-1].step, table))
                _draw(output, seen.trajectory, scores)
                if failures or seen.reached(until_step):
                    break
            else:
                time.sleep(interval)
    except KeyboardInterrupt:
        if seen.points:
            _draw(output, seen.trajectory, scores)  # Ctrl-C may have interrupted the last drawing
        return failures, True
    return failures, False


class _Seen:
    """The checkpoints of a run that have been measured."""

    def __init__(
        self,
        run: Path,
        columns: Sequence[Item],
        base: Checkpoint | None,
        settings: Settings,
        note: Note,
    ) -> None:
        self.run, self.columns, self.base, self.settings, self.note = run, columns, base, settings, note
        self.name = short_names([str(run)])[0]
        self.points: list[Point] = []
        self.waiting: dict[int, str] = {}

    @property
    def trajectory(self) -> Trajectory:
        """The measured points in order."""
        return trajectory(self.name, [item.name for item in self.columns], self.points)

    def reached(self, step: int | None) -> bool:
        """Whether a checkpoint of this step or a later one was measured."""
        return step is not None and any(point.step >= step for point in self.points)

    def look(self) -> Iterator[Similarity]:
        """Measure the new checkpoints one by one, and yield for each its table of one row."""
        known = {point.step for point in self.points}
        for step, path in checkpoints_in(self.run).items():
            if step not in known and (table := self._measured(step, path)) is not None:
                self.points += points([step], table)
                yield table

    def _measured(self, step: int, path: Path) -> Similarity | None:
        """The checkpoint's table; None while it is not complete, which is noted once for each reason."""
        count = len(self.columns)
        try:
            item = checkpoint_item(path, self.name, step, "checkpoint", self.base, self.settings.selection)
        except (WsteerError, OSError) as error:
            self._wait(step, str(error))
            return None
        items = comparable([*self.columns, item], self.base, self.settings.selection)
        try:
            sums = grouped_sums([each.delta.terms for each in items], count, lambda name: "")[""]
        except (WsteerError, OSError) as error:
            self._wait(step, str(error))
            return None
        if float(sums.whole[count]) == 0:
            self._wait(step, f"{item.name} changes nothing")
            return None
        return similarity(sums, [each.name for each in items], [count], range(count))

    def _wait(self, step: int, reason: str) -> None:
        if self.waiting.get(step) != reason:
            self.waiting[step] = reason
            self.note(f"step {step}: not complete yet ({reason})")


def _line(step: int, table: Similarity) -> str:
    """`step 40: w_evil 0.0312 (floor 0.0005)`."""
    values = zip(table.columns, table.cosines[0], table.floor[0], strict=True)
    return f"step {step}: " + ", ".join(
        f"{name} {cosine:.4f}" + ("" if floor is None else f" (floor {floor:.4f})") for name, cosine, floor in values
    )


def _append(output: Path, point: Point, table: Similarity) -> None:
    values = {key: dict(zip(table.columns, getattr(point, key), strict=True)) for key in ("cosines", "floor", "z")}
    with open(output / LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": point.step, **values}, allow_nan=False, ensure_ascii=False) + "\n")


def _draw(output: Path, found: Trajectory, scores: Scores | None) -> None:
    """Draw to another file, then replace the old picture, so a reader always sees a complete one."""
    save(trajectory_picture([found], scores), output / "drawing.png", svg=True)
    for suffix in (".png", ".svg"):
        os.replace(output / f"drawing{suffix}", output / f"trajectory{suffix}")
    write_trajectories(output / "drawing.csv", [found])
    os.replace(output / "drawing.csv", output / "trajectory.csv")
