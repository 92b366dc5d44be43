"""What monitor found, as JSON, as CSV with one line per pair, and in words."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from wsteer.files.text import write_csv
from wsteer.monitoring.correlation import Correlation
from wsteer.monitoring.gates import Failure
from wsteer.monitoring.similarity import Matrix, PartSimilarity, Similarity
from wsteer.monitoring.trajectories import Trajectory

MEANING = (
    "above the floor means more than chance, not the behaviour: topic, format and a shared start move cosines too; "
    "compare with --controls and --ceiling"
)


@dataclass(frozen=True)
class Controls:
    """Cosines of each row's item, and of each column's delta, with each control delta.

    `level` [rows][columns]: the pair's largest absolute cosine with a control; `beyond`: whether its own is larger.
    None where nothing is compared.
    """

    names: tuple[str, ...]
    rows: Matrix
    columns: Matrix
    level: Matrix
    beyond: tuple[tuple[bool | None, ...], ...]


@dataclass(frozen=True)
class Ceiling:
    """The cosines of a delta with deltas of the same training, repeated (another seed, half of the data)."""

    delta: str
    items: tuple[str, ...]
    cosines: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the cosines."""
        return sum(self.cosines) / len(self.cosines)


@dataclass(frozen=True)
class MonitorReport:
    """What `monitor` wrote. `per` holds a table for each part of the model, `groups` the members of each group."""

    output: str
    similarity: Similarity
    controls: Controls | None
    ceilings: tuple[Ceiling, ...]
    trajectories: tuple[Trajectory, ...]
    per: dict[str, PartSimilarity]
    groups: dict[str, list[str]]
    correlation: Correlation | None
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    @property
    def cosines(self) -> Matrix:
        """The cosines [rows][columns]."""
        return self.similarity.cosines

    def as_json(self) -> dict[str, object]:
        """All fields; the table's fields are at the top level."""
        table = asdict(self.similarity)
        del table["row_items"], table["column_items"]  # numbers of this run, of no use in a file
        return {
            "output": self.output,
            **table,
            "controls": asdict(self.controls) if self.controls else None,
            "ceilings": [{**asdict(each), "mean": each.mean} for each in self.ceilings],
            "trajectories": [asdict(each) for each in self.trajectories],
            "per": {part: asdict(table) for part, table in self.per.items()},
            "groups": self.groups,
            "correlation": asdict(self.correlation) if self.correlation else None,
            "failures": [asdict(each) for each in self.failures],
            "notes": list(self.notes),
        }


def notes_on(table: Similarity, centred: bool) -> tuple[str, ...]:
    """What a reader of the table must know before comparing its cosines."""
    notes = [MEANING]
    pairs = table.pairs()
    starts = {
        start: (table.rows[i], table.columns[j])
        for i, j in reversed(pairs)
        if (start := table.initialisations[i][j]) is not None
    }
    if len(starts) > 1:
        listed = "; ".join(f"{' and '.join(pair)}: {start}" for start, pair in sorted(starts.items()))
        notes.append(
            f"pairs differ in whether they started from the same A ({listed}): a shared start alone moves cosines "
            "severalfold, so compare like with like"
        )
    if partly := table.partly():
        i, j = min(partly, key=lambda pair: table.share(*pair))
        notes.append(
            f"the parameters that both change hold {table.share(i, j):.0%} of a norm of {table.rows[i]} or "
            f"{table.columns[j]}: their cosine over the whole vectors is {table.cosines[i][j]:.3f}, over those "
            f"parameters {table.cosines_shared[i][j]:.3f}; do not compare the one kind with the other"
        )
    if empty := [pair for pair in pairs if table.empty(*pair)]:
        i, j = empty[0]
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        notes.append(
            f"{table.rows[i]} and {table.columns[j]}{more} have no parameter in common that both change: their cell is "
            "empty"
        )
    if centred:
        notes.append("the controls' mean is removed: what is left of noise has the cosine `expected`, not 0")
    return tuple(notes)


COLUMNS = (
    *("row", "column", "cosine", "cosine_shared", "dot", "norm_row", "norm_column", "shared_row", "shared_column"),
    *("floor", "floor_shared", "expected", "z", "above", "overlap", "initialisation", "control_level", "ceiling"),
    "share_of_ceiling",
)
PART_COLUMNS = (
    *("row", "column", "cosine", "cosine_shared", "dot", "share_of_dot", "norm_row", "norm_column"),
    *("floor", "floor_shared", "z", "overlap"),
)


def write_pairs(path: Path, report: MonitorReport) -> None:
    """One line for each row and column of the table; a value that does not apply is an empty field."""
    write_csv(path, COLUMNS, _pairs(report))


def _pairs(report: MonitorReport) -> Iterator[dict[str, object]]:
    table = report.similarity
    ceilings = {each.delta: each.mean for each in report.ceilings}
    for i, row in enumerate(table.row_items):
        for j, column in enumerate(table.columns):
            ceiling, cosine = ceilings.get(column), table.cosines[i][j]
            itself = row == table.column_items[j]
            yield {
                **_measures(table, table, i, j),
                "shared_row": table.shared_rows[i][j],
                "shared_column": table.shared_columns[i][j],
                "expected": table.expected[i][j],
                "above": table.above[i][j],
                "initialisation": table.initialisations[i][j],
                "control_level": report.controls.level[i][j] if report.controls else None,
                "ceiling": ceiling,
                "share_of_ceiling": cosine / ceiling if ceiling and cosine is not None and not itself else None,
            }


def _measures(table: Similarity, part: Similarity | PartSimilarity, i: int, j: int) -> dict[str, object]:
    """The values of a pair that the whole table and the table of a part of the model have in common."""
    return {
        "row": table.rows[i],
        "column": table.columns[j],
        "cosine": part.cosines[i][j],
        "cosine_shared": part.cosines_shared[i][j],
        "dot": part.dots[i][j],
        "norm_row": part.norms_rows[i],
        "norm_column": part.norms_columns[j],
        "floor": part.floor[i][j],
        "floor_shared": part.floor_shared[i][j],
        "z": part.z[i][j],
        "overlap": part.overlaps[i][j],
    }


def write_per(path: Path, by: str, report: MonitorReport) -> None:
    """One line for each part of the model, row and column, if both change the part."""
    columns = (by, *PART_COLUMNS)
    write_csv(
        path,
        columns,
        (
            {by: name, **_measures(report.similarity, part, i, j), "share_of_dot": part.shares_of_dots[i][j]}
            for name, part in report.per.items()
            for i, row in enumerate(part.cosines)
            for j, cosine in enumerate(row)
            if cosine is not None
        ),
    )
