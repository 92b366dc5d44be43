"""Follow a training run: when a checkpoint appears, its cosines are appended to a file and the picture is redrawn."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.deltas.gram import grouped_sums
from wsteer.deltas.inputs import checkpoints_in
from wsteer.errors import WsteerError
from wsteer.files.pictures import save
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import check_output, growing_folder
from wsteer.models.devices import float64_device
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
from wsteer.monitoring.pictures import trajectory_picture
from wsteer.monitoring.settings import Settings
from wsteer.monitoring.similarity import WHOLE, Similarity, nothing_shared, similarity
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
FILES = (RECORD, LINES, *(f"{name}{end}" for name in ("trajectory", "trajectory-shared", "drawing") for end in ENDS))


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
        self.device = float64_device(settings.device)
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
            deltas = [each.delta.terms for each in items]
            sums = grouped_sums(deltas, count, lambda name: "", device=self.device)[""]
        except (WsteerError, OSError) as error:
            self._wait(step, str(error))
            return None
        if float(sums.whole[count]) == 0:
            self._wait(step, f"{item.name} changes nothing")
            return None
        table = similarity(sums, [each.name for each in items], [count], range(count))
        if all(table.empty(0, j) for j in range(count)):
            raise WsteerError(nothing_shared(table.rows[0], table.columns[0]))
        return table

    def _wait(self, step: int, reason: str) -> None:
        if self.waiting.get(step) != reason:
            self.waiting[step] = reason
            self.note(f"step {step}: not complete yet ({reason})")


def _line(step: int, table: Similarity) -> str:
    """`step 40: w_evil 0.0312 (floor 0.0005)`, with the cosine over shared parameters where it differs."""
    parts = []
    for j, name in enumerate(table.columns):
        cosine, shared, floor = (values[0][j] for values in (table.cosines, table.cosines_shared, table.floor))
        beside = [] if floor is None else [f"floor {floor:.4f}"]
        if shared is not None and table.share(0, j) < WHOLE:
            beside.append(f"over shared parameters {shared:.4f}")
        value = "shares no parameter" if cosine is None else f"{cosine:.4f}"
        parts.append(f"{name} {value}" + (f" ({'; '.join(beside)})" if beside else ""))
    return f"step {step}: {', '.join(parts)}"


def _append(output: Path, point: Point, table: Similarity) -> None:
    keys = [each.name for each in fields(Point) if each.name != "step"]
    values = {key: dict(zip(table.columns, getattr(point, key), strict=True)) for key in keys}
    with open(output / LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": point.step, **values}, allow_nan=False, ensure_ascii=False) + "\n")


def _draw(output: Path, found: Trajectory, scores: Scores | None) -> None:
    """Draw to another file, then replace the old picture, so a reader always sees a complete one."""
    for shared in (False, True) if found.partly else (False,):
        save(trajectory_picture([found], scores, shared), output / "drawing.png", svg=True)
        for suffix in (".png", ".svg"):
            os.replace(output / f"drawing{suffix}", output / f"trajectory{'-shared' * shared}{suffix}")
    write_trajectories(output / "drawing.csv", [found])
    os.replace(output / "drawing.csv", output / "trajectory.csv")
