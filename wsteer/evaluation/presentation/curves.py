"""Pictures of metrics against k, with bands of their intervals, and the share of rows that have a value beneath."""

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.lines import Axis, Line, base_of, lines
from wsteer.evaluation.presentation.tradeoff import bounds, failed, span
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.summary import Estimate
from wsteer.files.pictures import label, own_style

ACROSS = 3  # panels in one row
NAMES: Mapping[Axis, str] = {"k": "k", "step": "training step"}


@own_style
def curves(
    found: Mapping[tuple[str, str, str], Estimate], conditions: Sequence[Condition], measures: Sequence[Measure]
) -> Figure | None:
    """A panel for each metric and axis (k, training step); None where no condition lies on one.

    What has no place on an axis, as a system prompt, is a dashed line across the panels of k.
    """
    drawn, base = lines(conditions), base_of(conditions)
    axes_used: list[Axis] = [axis for axis in NAMES if any(line.axis == axis for line in drawn)]
    panels = [
        (measure, axis)
        for measure in measures
        for axis in axes_used
        if any(_points(found, line, measure, base) for line in drawn if line.axis == axis)
    ]
    if not panels:
        return None
    across = len(axes_used) if len(axes_used) > 1 else min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(0.8 + 4.0 * across, 0.6 + 3.7 * down), layout="constrained")
    grid = figure.add_gridspec(down, across)
    for number, (measure, axis) in enumerate(panels):
        level = [line for line in drawn if line.axis == "none"] if axis == axes_used[0] else []
        mine = [line for line in drawn if line.axis == axis]
        _panel(figure, grid[number // across, number % across], found, base, measure, axis, mine, level)
    handles: dict[str, Artist] = {}
    for panel in figure.axes:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        columns = min(len(handles), 2 * across)
        figure.legend(
            list(handles.values()), list(map(label, handles)), loc="outside lower center", ncols=columns, fontsize=8
        )
    return figure


def _points(
    found: Mapping[tuple[str, str, str], Estimate], line: Line, measure: Measure, base: Condition | None
) -> list[tuple[float, tuple[float, float, float]]]:
    """Where the line has defined values, and (value, low, high) there; the base is at 0."""
    own = [(line.where(each), each) for each in line.points]
    joined = [(0.0, base), *own] if base and line.axis != "none" else own
    told = ((at, bounds(found.get((measure.task, measure.metric, each.name)))) for at, each in joined)
    return sorted((at, value) for at, value in told if value is not None)


def _panel(
    figure: Figure,
    place: SubplotSpec,
    found: Mapping[tuple[str, str, str], Estimate],
    base: Condition | None,
    measure: Measure,
    axis: Axis,
    mine: Sequence[Line],
    level: Sequence[Line],
) -> None:
    cells = place.subgridspec(2, 1, height_ratios=(4, 1))
    above: Axes = figure.add_subplot(cells[0])
    beneath: Axes = figure.add_subplot(cells[1], sharex=above)
    values = []
    for line in mine:
        points = _points(found, line, measure, base)
        at = [x for x, _ in points]
        style = "--" if line.control else "-"
        above.plot(
            *(at, [y for _, (y, _, _) in points], style + line.mark),
            color=line.colour,
            markersize=4.5,
            linewidth=1.4,
            label=line.name,
        )
        lows, highs = [low for _, (_, low, _) in points], [high for _, (_, _, high) in points]
        above.fill_between(at, lows, highs, color=line.colour, alpha=0.13, linewidth=0)
        values += [value for _, value in points]
        joined = [(0.0, base)] if base else []
        joined += [(line.where(each), each) for each in line.points]
        scored = [(at, _valid(found.get((measure.task, measure.metric, each.name)))) for at, each in joined]
        shares = sorted((x, share) for x, share in scored if share is not None)
        beneath.plot(*zip(*shares, strict=True), style + line.mark, color=line.colour, markersize=3, linewidth=1)
    for line in level:
        for _, (value, low, high) in _points(found, line, measure, None):
            above.axhline(value, color=line.colour, linestyle=":", linewidth=1.6, label=line.name)
            above.axhspan(low, high, color=line.colour, alpha=0.07, linewidth=0)
            values.append((value, low, high))
    start = bounds(found.get((measure.task, measure.metric, base.name))) if base else None
    if start is not None:
        above.plot(0, start[0], "*", color="white", markeredgecolor="black", markersize=12, zorder=5, label="base")
    above.set_ylim(*span(values, measure))
    shown = f"{label(measure.metric)} ({label(measure.unit)})" if measure.unit else label(measure.metric)
    above.set_title(f"{label(measure.task)}: {shown}", fontsize=9)
    above.tick_params(labelbottom=False)
    beneath.set_ylim(-0.08, 1.08)
    beneath.set_ylabel("valid", fontsize=8)
    beneath.set_xlabel(NAMES[axis])
    beneath.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=axis == "step"))
    for panel in (above, beneath):
        panel.grid(alpha=0.25)


def _valid(estimate: Estimate | None) -> float | None:
    """The share of the metric's rows that have a value."""
    if estimate is None or not estimate.n + failed(estimate):
        return None
    return estimate.n / (estimate.n + failed(estimate))
