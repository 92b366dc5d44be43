"""Follow a training run: when a checkpoint appears, its cosines are appended to a file and the picture is redrawn."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.deltas.gram import grouped_sums
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import check_output, growing_folder
from wsteer.models.devices import float64_device
from wsteer.monitoring.following import (
    LINES,
    Following,
    Incomplete,
    add_line,
    check_followed,
    follow,
    replace_picture,
    replace_table,
    written,
)
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
    Trajectory,
    points,
    read_scores,
    trajectory,
    write_trajectories,
)
from wsteer.progress import Note, unsaid

FILES = (RECORD, *written("trajectory", "trajectory-shared"))


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
    check_followed(run, interval)
    check_output(output, force, folder=True, inputs=[*deltas, run, *settings.read])
    base = open_checkpoint(settings.base) if settings.base is not None else None
    names = dict(zip(map(place_of, map(str, deltas)), short_names([str(path) for path in deltas]), strict=True))
    columns = in_tables(open_items(deltas, "DELTA", names, base, settings.selection))
    settings.gates.check_names([item.name for item in columns])
    seen = _Seen(Path(run), columns, base, settings)
    scores = read_scores(settings.scores) if settings.scores else None
    inputs = [item.input.source for item in columns]
    with growing_folder(output, force, record("monitor", settings.options, inputs), FILES):
        (output / LINES).touch()

        def add(table: Similarity) -> tuple[Failure, ...]:
            _append(output, seen.points[-1], table)
            note(_line(seen.points[-1].step, table))
            return settings.gates.failures(table.measured())

        def draw() -> None:
            found = seen.trajectory
            for shared in (False, True) if found.partly else (False,):
                name = f"trajectory{'-shared' * shared}"
                replace_picture(output, trajectory_picture([found], scores, shared), name)
            replace_table(output, lambda path: write_trajectories(path, [found]))

        failures, interrupted = follow(Following(Path(run), seen.measure, note), until_step, interval, add, draw)
    return WatchReport(str(output), seen.trajectory if seen.points else None, failures, interrupted)


class _Seen:
    """The checkpoints of a run that have been measured."""

    def __init__(self, run: Path, columns: Sequence[Item], base: Checkpoint | None, settings: Settings) -> None:
        self.columns, self.base, self.settings = columns, base, settings
        self.name = short_names([str(run)])[0]
        self.device = float64_device(settings.device)
        self.points: list[Point] = []

    @property
    def trajectory(self) -> Trajectory:
        """The measured points in order."""
        return trajectory(self.name, [item.name for item in self.columns], self.points)

    def measure(self, step: int, path: Path) -> Similarity:
        """The checkpoint's table of one row, which becomes a point."""
        count = len(self.columns)
        try:
            item = checkpoint_item(path, self.name, step, "checkpoint", self.base, self.settings.selection)
        except (WsteerError, OSError) as error:
            raise Incomplete(str(error)) from None
        items = comparable([*self.columns, item], self.base, self.settings.selection)
        try:
            deltas = [each.delta.terms for each in items]
            sums = grouped_sums(deltas, count, lambda name: "", device=self.device)[""]
        except (WsteerError, OSError) as error:
            raise Incomplete(str(error)) from None
        if float(sums.whole[count]) == 0:
            raise Incomplete(f"{item.name} changes nothing")
        table = similarity(sums, [each.name for each in items], [count], range(count))
        if all(table.empty(0, j) for j in range(count)):
            raise WsteerError(nothing_shared(table.rows[0], table.columns[0]))
        self.points += points([step], table)
        return table


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
    add_line(output, {"step": point.step, **values})
