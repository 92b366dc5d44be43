"""Cosines between deltas: a matrix as JSON, CSV and a heat map."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from wsteer.errors import WsteerError
from wsteer.gram import cosine_from_gram, gram
from wsteer.monitoring.items import short_names
from wsteer.progress import Track, silent
from wsteer.saving import RECORD, check_output, new_folder, record, write_json
from wsteer.sides import Side, open_side


@dataclass(frozen=True)
class Similarity:
    """Cosines of each row's delta with each column's, and the norms of both."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    norms_rows: tuple[float, ...]
    norms_columns: tuple[float, ...]


@dataclass(frozen=True)
class MonitorReport:
    """What `monitor` wrote, and the matrix itself."""

    output: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]


def monitor(
    deltas: Sequence[str | Path],
    output: str | Path,
    of: Sequence[str | Path] = (),
    *,
    force: bool = False,
    track: Track = silent,
) -> MonitorReport:
    """Write the cosine of every item of `of` with every one of `deltas` (without `of`: of all pairs of `deltas`).

    Items are delta files or LoRA adapters. Low-rank pairs are compared in rank space, all in float64.
    """
    output = Path(output)
    check_output(output, force, folder=True, inputs=[*deltas, *of])
    columns = [open_side(path, "delta") for path in deltas]
    rows = [open_side(path, "of") for path in of] or columns
    for side in rows + columns:
        if side.delta is None:
            raise WsteerError(
                f"{side.path} is a checkpoint; make its task vector first: wsteer diff {side.path} --base BASE"
            )
    similarity = compare(rows, columns, track)
    inputs = [side.source for side in columns] + ([side.source for side in rows] if of else [])
    with new_folder(output, force) as partial:
        write_json(partial / "similarity.json", _as_json(similarity))
        _write_csv(partial / "similarity.csv", similarity)
        heat_map(similarity).savefig(
            partial / "similarity.png", dpi=150, bbox_inches="tight", metadata={"Software": None}
        )
        write_json(partial / RECORD, record("monitor", {}, inputs))
    return MonitorReport(str(output), similarity.rows, similarity.columns, similarity.cosines)


def compare(rows: Sequence[Side], columns: Sequence[Side], track: Track = silent) -> Similarity:
    """All cosines of rows with columns. Each parameter of each distinct input is read once."""
    distinct = list({side.reference: side for side in [*columns, *rows]}.values())
    at = {side.reference: index for index, side in enumerate(distinct)}
    for row in rows:
        for column in columns:
            _check_comparable(row, column)
    dots = gram([side.delta for side in distinct], track)
    names = dict(zip(at, short_names(list(at)), strict=True))
    cosines = tuple(
        tuple(cosine_from_gram(dots, at[row.reference], at[column.reference]) for column in columns) for row in rows
    )
    return Similarity(
        rows=tuple(names[row.reference] for row in rows),
        columns=tuple(names[column.reference] for column in columns),
        cosines=cosines,
        norms_rows=tuple(dots[at[row.reference]][at[row.reference]] ** 0.5 for row in rows),
        norms_columns=tuple(dots[at[column.reference]][at[column.reference]] ** 0.5 for column in columns),
    )


def _check_comparable(a: Side, b: Side) -> None:
    if not a.delta.terms.keys() & b.delta.terms.keys():
        raise WsteerError(
            f"{a.path} and {b.path} have no parameter in common; compare deltas of one model and one kind"
        )


def _as_json(similarity: Similarity) -> dict:
    return {
        "rows": similarity.rows,
        "columns": similarity.columns,
        "cosines": similarity.cosines,
        "norms_rows": similarity.norms_rows,
        "norms_columns": similarity.norms_columns,
    }


def _write_csv(path: Path, similarity: Similarity) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *similarity.columns])
        for name, cosines in zip(similarity.rows, similarity.cosines, strict=True):
            writer.writerow([name, *(repr(cosine) for cosine in cosines)])


def heat_map(similarity: Similarity) -> Figure:
    """The cosines as a heat map with names and values; colours diverge from 0 and span -1 to 1."""
    count_rows, count_columns = len(similarity.rows), len(similarity.columns)
    figure = Figure(figsize=(2.2 + 0.9 * count_columns, 1.6 + 0.6 * count_rows))
    axes = figure.add_subplot()
    image = axes.imshow(similarity.cosines, cmap=matplotlib.colormaps["RdBu_r"], vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(count_columns), similarity.columns, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(count_rows), similarity.rows, parse_math=False)
    for i, cosines in enumerate(similarity.cosines):
        for j, cosine in enumerate(cosines):
            axes.text(j, i, f"{cosine:.3f}", ha="center", va="center", color="white" if abs(cosine) > 0.6 else "black")
    axes.set_title("cosine of weight changes", fontsize=11)
    figure.colorbar(image, ax=axes, label="cosine")
    return figure
