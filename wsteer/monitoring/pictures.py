"""Pictures of similarities: heat maps, and cosines against the training step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import FillStyleType

from wsteer.files.pictures import label, own_style
from wsteer.monitoring.correlation import Correlation
from wsteer.monitoring.similarity import Matrix, PartSimilarity, Similarity
from wsteer.monitoring.trajectories import Scores, Trajectory

LEAST_REACH = 0.05  # the least cosine with full colour, so that noise stays pale
SMALL_CELL, LARGE_CELL = 0.36, 0.85  # inches, with many columns and with few
PANELS = 3  # the most in one row


@own_style
def similarity_map(table: Similarity, groups: Mapping[str, Sequence[str]], shared: bool = False) -> Figure:
    """The table as a heat map: cosines within the noise floor are in brackets, names in the order of the groups.

    With `shared` it is the cosines over the parameters that both change.
    """
    cosines = table.cosines_shared if shared else table.cosines
    rows, columns = _ordered(table.rows, groups), _ordered(table.columns, groups)
    values = tuple(tuple(cosines[i][j] for j in columns) for i in rows)
    within = [[table.above[i][j] is False for j in columns] for i in rows]
    others = [abs(value) for i, j in table.pairs() if (value := cosines[i][j]) is not None]
    names = [table.rows[i] for i in rows], [table.columns[j] for j in columns]
    figure = heat_map(*names, values, max(others, default=1.0), within, bar_pad=0.08 if groups else 0.02)
    axes = figure.axes[0]
    _separate(axes, names[0], groups, down=True)
    _separate(axes, names[1], groups, down=False)
    what = "cosine over shared parameters" if shared else "cosine of weight changes"
    # leaves room for the groups' names
    axes.set_title(f"{what} (in brackets: within the noise floor)", fontsize=10, pad=20 if groups else 6)
    return figure


@own_style
def part_map(table: Similarity, parts: Mapping[str, PartSimilarity], by: str, most: int) -> Figure:
    """The cosines of the first `most` pairs in each part of the model, as a heat map."""
    pairs = table.pairs()[:most]
    values = tuple(tuple(part.cosines[i][j] for part in parts.values()) for i, j in pairs)
    reach = max((abs(value) for row in values for value in row if value is not None), default=1.0)
    figure = heat_map([f"{table.rows[i]} · {table.columns[j]}" for i, j in pairs], list(parts), values, reach)
    figure.axes[0].set_title(f"cosine of weight changes by {by}", fontsize=10)
    return figure


@own_style
def correlation_picture(table: Similarity, found: Correlation) -> Figure:
    """A point for each pair: its cosine against the user's value; where the two cosines differ, hollow ones, too."""
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    drawn: list[tuple[str, Matrix, float | None, float | None, FillStyleType]] = [
        ("cosine", table.cosines, found.rho, found.p, "full")
    ]
    if table.partly():
        drawn.append(("over shared parameters", table.cosines_shared, found.rho_shared, found.p_shared, "none"))
    for name, cosines, rho, p, fill in drawn:
        pairs = [(found.values[i][j], cosines[i][j]) for i, j in table.pairs()]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        told = "" if rho is None else f": rho {rho:.2f}, p {p:.2g}"
        axes.plot(*zip(*points, strict=True), "o", markersize=5, fillstyle=fill, label=f"{name}{told}")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("value of --correlate")
    axes.set_ylabel("cosine")
    axes.set_title(f"{found.pairs} pairs; p by permutations of the items", fontsize=10)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)  # points may be anywhere inside
    return figure


@own_style
def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Matrix,
    reach: float,
    bracketed: Sequence[Sequence[bool]] | None = None,
    bar_pad: float = 0.02,
) -> Figure:
    """Values as a heat map with names and numbers; colours diverge from 0 and span ±`reach`. None is hatched.

    `bar_pad` is the space between the axes and the colour bar, as a share of the axes.
    """
    cell = SMALL_CELL if len(columns) > 12 else LARGE_CELL
    size = 6 if len(columns) > 12 else 9
    height = min(cell, 0.5)
    figure = Figure(figsize=(2.2 + cell * len(columns), 1.4 + height * len(rows)))
    axes = figure.add_subplot()
    axes.patch.set(facecolor="0.95", edgecolor="0.8", hatch="////")  # shows where there is no value
    reach = max(reach, LEAST_REACH)
    filled = [_with_gaps(row) for row in values]
    image = axes.imshow(filled, cmap=matplotlib.colormaps["RdBu_r"], vmin=-reach, vmax=reach, aspect="auto")
    turned: dict[str, Any] = {}
    if max(map(len, columns)) > 3:
        turned = {"rotation": 90, "ha": "center"} if cell == SMALL_CELL else {"rotation": 30, "ha": "right"}
    axes.set_xticks(range(len(columns)), map(label, columns), parse_math=False, fontsize=size, **turned)
    axes.set_yticks(range(len(rows)), map(label, rows), parse_math=False, fontsize=size)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is not None:
                number = _number(value, cell == SMALL_CELL)
                text = f"({number})" if bracketed and bracketed[i][j] else number
                colour = "white" if abs(value) > 0.6 * reach else "black"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=size - 1)
    figure.colorbar(image, ax=axes, label="cosine", fraction=0.04, pad=bar_pad)
    return figure


def _number(value: float, short: bool) -> str:
    """`0.108`, or `.11` if `short`."""
    if not short:
        return f"{value:.3f}"
    text = f"{value:.2f}".replace("0.", ".", 1)
    return "0" if text in (".00", "-.00") else text


def _ordered(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[int]:
    """Indices of the names: each group's together, in the order of the groups, the rest last."""
    order = {name: index for index, name in enumerate(member for group in groups.values() for member in group)}
    return sorted(range(len(names)), key=lambda i: (order.get(names[i], len(order)), i))


def _separate(axes: Axes, names: Sequence[str], groups: Mapping[str, Sequence[str]], down: bool) -> None:
    """A line after each group, and the group's name beside its rows (`down`) or above its columns."""
    start = 0
    for group, members in groups.items():
        count = sum(name in members for name in names)
        if not count:
            continue
        stop, middle = start + count, start + (count - 1) / 2
        if stop < len(names):
            draw = axes.axhline if down else axes.axvline
            draw(stop - 0.5, color="0.2", linewidth=1.2)
        style: dict[str, Any] = {"fontsize": 8, "color": "0.3"}
        if down:
            transform = axes.get_yaxis_transform()
            axes.text(1.005, middle, group, transform=transform, ha="left", va="center", rotation=270, **style)
        else:
            axes.text(middle, 1.01, group, transform=axes.get_xaxis_transform(), ha="center", va="bottom", **style)
        start = stop


@dataclass(frozen=True)
class Series:
    """A line of a picture by step: its values, the band from `low` to `high`, and a ring at the step `ring`.

    A value that does not apply is None: the line and the band have a gap there.
    """

    label: str
    values: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    ring: int | None = None


@dataclass(frozen=True)
class RunPanel:
    """A panel of a picture by step: a run, and the series measured at its steps.

    `title` is the run's name where none is given. `noise`: where not empty, the reach of random directions at each
    step, a grey band.
    """

    run: str
    steps: Sequence[int]
    series: Sequence[Series]
    title: str = ""
    noise: Sequence[float] = ()


def trajectory_picture(found: Sequence[Trajectory], scores: Scores | None = None, shared: bool = False) -> Figure:
    """Cosines by step, or those over `shared` parameters: a panel for each run, a line for each delta.

    Each line is over a band of two floors.
    """
    name = "cosine over shared parameters" if shared else "cosine"
    return steps_picture([_cosines(each, shared) for each in found], name, scores, one_scale=True)


def _cosines(each: Trajectory, shared: bool) -> RunPanel:
    series = []
    for j, delta in enumerate(each.deltas):
        floors = [2 * (row[j] or 0.0) for row in (each.floor_shared if shared else each.floor)]
        values = [row[j] for row in (each.cosines_shared if shared else each.cosines)]
        series.append(Series(delta, values, [-floor for floor in floors], floors, each.leaves_floor[delta]))
    return RunPanel(each.run, each.steps, series)


@own_style
def steps_picture(
    runs: Sequence[RunPanel], ylabel: str, scores: Scores | None = None, one_scale: bool = False
) -> Figure:
    """A panel for each run: its series against the step, and scores in grey on an axis of their own.

    All panels have the same series, and one legend below them; with `one_scale` one axis of values, and one of scores.
    """
    figure, axes = panels(len(runs), width=4.6, height=3.2, margin=1.2)
    drawn: dict[str, Any] = {}
    for panel, each in zip(axes, runs, strict=True):
        handles, labels = _draw_run(panel, each, ylabel, scores)
        drawn |= zip(labels, handles, strict=True)
    beside = [panel for panel in figure.axes if panel.get_visible() and panel not in axes]  # of scores
    for alike in (axes, beside) if one_scale else ():
        ends = [end for panel in alike for end in panel.get_ylim()]
        for panel in alike:
            panel.set_ylim(min(ends), max(ends))
    across = 2 * min(PANELS, len(runs))
    figure.legend(
        list(drawn.values()), list(drawn), loc="outside lower center", ncols=across, fontsize=9, frameon=False
    )
    return figure


def panels(count: int, width: float, height: float, margin: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of this size (inches), `PANELS` in a row; `margin` is added to its width."""
    across = min(PANELS, count)
    down = -(-count // across)
    figure = Figure(figsize=(margin + width * across, 0.6 + height * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flatten())
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def small_legend(axes: Axes, *handles_and_labels: Sequence) -> None:
    """A small legend without a frame."""
    axes.legend(*handles_and_labels, fontsize=8, framealpha=0.8, edgecolor="none")


def _draw_run(axes: Axes, each: RunPanel, ylabel: str, scores: Scores | None) -> tuple[Sequence[Any], Sequence[str]]:
    """Draw a panel; the handles and labels of its legend."""
    if each.noise:
        below = [-reach for reach in each.noise]
        axes.fill_between(each.steps, below, each.noise, color="0.5", alpha=0.25, linewidth=0, label="random (95%)")
    faint = 0.3 / max(2, len(each.series))  # bands lie over each other
    for series in each.series:
        values, low, high = (_with_gaps(found) for found in (series.values, series.low, series.high))
        (line,) = axes.plot(each.steps, values, marker="o", markersize=3.5, linewidth=1.5, label=series.label)
        axes.fill_between(each.steps, low, high, color=line.get_color(), alpha=faint, linewidth=0)
        if series.ring is not None:
            at = values[list(each.steps).index(series.ring)]
            axes.plot(series.ring, at, "o", markersize=9, fillstyle="none", color=line.get_color())
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(ylabel)
    axes.set_title(each.title or each.run, fontsize=9 if each.title else 10)
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    if scores is not None and (points := scores.of(each.run)):
        beside = axes.twinx()
        (line,) = beside.plot(*zip(*points, strict=True), color="0.5", linestyle="--", marker="s", markersize=3)
        beside.set_ylabel(scores.label, color="0.4")
        beside.tick_params(colors="0.4")
        handles, labels = [*handles, line], [*labels, scores.label]
    return handles, labels


def _with_gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
