"""Trajectories: the cosines of a training run's checkpoints with each delta, against the training step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.deltas.gram import Sums
from wsteer.errors import WsteerError
from wsteer.files.text import read_csv, write_csv
from wsteer.monitoring.items import Item
from wsteer.monitoring.similarity import WHOLE, Matrix, Similarity, similarity
from wsteer.statistics import holm, p_value

COLUMNS = ("run", "step", "delta", "cosine", "cosine_shared", "floor", "floor_shared", "z")
LATEST_STEP = 10**15  # pictures have no room for more


@dataclass(frozen=True)
class Trajectory:
    """A run's cosines by step, with a row for each step and a column for each delta; see `Similarity`.

    `leaves_floor`: for each delta the first step with a cosine above the noise floor, by Holm's test at 5% over the
    whole trajectory; None if there is none.
    """

    run: str
    steps: tuple[int, ...]
    deltas: tuple[str, ...]
    cosines: Matrix
    cosines_shared: Matrix
    floor: Matrix
    floor_shared: Matrix
    z: Matrix
    leaves_floor: dict[str, int | None]

    @property
    def partly(self) -> bool:
        """Whether the two cosines differ somewhere: the whole one is the other times both sides' shares of the norm."""
        return any(
            whole is not None and shared is not None and abs(whole) < WHOLE * abs(shared)
            for rows in zip(self.cosines, self.cosines_shared, strict=True)
            for whole, shared in zip(*rows, strict=True)
        )


@dataclass(frozen=True)
class Scores:
    """An evaluation's score by training step, for all runs or (with a run's name) for one."""

    label: str
    points: tuple[tuple[str | None, int, float], ...]

    def of(self, run: str) -> list[tuple[int, float]]:
        """The (step, score) of a run, in order."""
        return sorted((step, score) for name, step, score in self.points if name in (None, run))


@dataclass(frozen=True)
class Point:
    """The cosines of one checkpoint with each delta; see `Similarity`."""

    step: int
    cosines: tuple[float | None, ...]
    cosines_shared: tuple[float | None, ...]
    floor: tuple[float | None, ...]
    floor_shared: tuple[float | None, ...]
    z: tuple[float | None, ...]


def trajectories(
    sums: Sums,
    names: Sequence[str],
    items: Sequence[tuple[int, Item]],
    columns: Sequence[int],
    centre: Sequence[int] = (),
) -> tuple[Trajectory, ...]:
    """One trajectory for each run among the items, which are given with their indices in `sums`."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for index, item in items:
        if item.run is not None and item.step is not None:
            runs.setdefault(item.run, []).append((item.step, index))
    found = []
    for run, rows in runs.items():
        table = similarity(sums, names, [index for _, index in rows], columns, centre)
        found.append(trajectory(run, table.columns, points([step for step, _ in rows], table)))
    return tuple(found)


def points(steps: Sequence[int], table: Similarity) -> list[Point]:
    """A point for each row of the table."""
    columns = (table.cosines, table.cosines_shared, table.floor, table.floor_shared, table.z)
    return [Point(*row) for row in zip(steps, *columns, strict=True)]


def trajectory(run: str, deltas: Sequence[str], found: Sequence[Point]) -> Trajectory:
    """The trajectory of these points, in the order of their steps."""
    found = sorted(found, key=lambda point: point.step)
    tested = {(i, j): z for i, point in enumerate(found) for j, z in enumerate(point.z) if z is not None}
    above = dict(zip(tested, holm([p_value(z) for z in tested.values()]), strict=True))
    leaves = {
        delta: next((point.step for i, point in enumerate(found) if above.get((i, j))), None)
        for j, delta in enumerate(deltas)
    }
    return Trajectory(
        run,
        steps=tuple(point.step for point in found),
        deltas=tuple(deltas),
        cosines=tuple(point.cosines for point in found),
        cosines_shared=tuple(point.cosines_shared for point in found),
        floor=tuple(point.floor for point in found),
        floor_shared=tuple(point.floor_shared for point in found),
        z=tuple(point.z for point in found),
        leaves_floor=leaves,
    )


def read_scores(path: Path) -> Scores:
    """Scores from a CSV file with the columns `step`, the score, whose name is the label, and optionally `run`.

    The scores.csv of `wsteer eval` is one; of several scores the first counts. A step whose field is empty has none.
    Raises WsteerError if columns are missing, or a value is not a number.
    """
    try:
        header, rows = read_csv(path)
    except WsteerError as error:
        raise WsteerError(f"--scores {path} cannot be read as CSV: {error}") from None
    labels = [name for name in header if name not in ("step", "run")]
    if "step" not in header or not labels or not rows:
        raise WsteerError(f"--scores {path}: a header with `step` and the score's name is needed, and a line a step")
    points = {}
    for number, row in enumerate(rows, 2):
        if row[labels[0]] == "":  # no answer was graded, as of a share of no rows
            continue
        try:
            step, score = int(row["step"]), float(row[labels[0]])
        except (TypeError, ValueError):
            raise WsteerError(f"--scores {path}:{number}: step and {labels[0]} must be numbers") from None
        if not 0 <= step < LATEST_STEP:
            raise WsteerError(f"--scores {path}:{number}: the step must be from 0 to {LATEST_STEP - 1}")
        if not math.isfinite(score):
            raise WsteerError(f"--scores {path}:{number}: {labels[0]} is not finite")
        place = row.get("run") or None, step
        if place in points:
            raise WsteerError(f"--scores {path}:{number}: the step {step} is given twice for a run; keep one")
        points[place] = score
    if not points:
        raise WsteerError(f"--scores {path}: no step has a number under {labels[0]}")
    return Scores(labels[0], tuple((*place, score) for place, score in points.items()))


def check_beside(scores: Scores | None, steps: bool, option: str) -> None:
    """Refuse scores where nothing is measured by step; `option` names what would be."""
    if scores and not steps:
        raise WsteerError(
            f"--scores is drawn beside a trajectory: name a folder with checkpoint-<step> folders with {option}"
        )


def write_trajectories(path: Path, found: Sequence[Trajectory]) -> None:
    """One line for each run, step and delta."""
    write_csv(
        path,
        COLUMNS,
        (
            dict(zip(COLUMNS, (each.run, step, *values), strict=True))
            for each in found
            for step, *rows in zip(
                each.steps, each.cosines, each.cosines_shared, each.floor, each.floor_shared, each.z, strict=True
            )
            for values in zip(each.deltas, *rows, strict=True)
        ),
    )
