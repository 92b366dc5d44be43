"""The trade-off picture: what steering changes (y) against what it is to keep (x), a line for each method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from wsteer.evaluation.conditions import Condition, k_text
from wsteer.evaluation.presentation.lines import Line, base_of, lines
from wsteer.evaluation.presentation.placement import Box, place
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.summary import Estimate
from wsteer.files.pictures import label, own_style

LEAST_SPAN = 0.2  # of an axis of shares: less would make noise look large
GAP, MARK = 6.0, 5.0  # points between a mark and its label, and half of a mark's width
GOOD = "#009E73"
GROUND = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4}  # keeps a label readable over lines


@dataclass(frozen=True)
class Point:
    """One condition in the picture: (value, low, high) across and up."""

    condition: Condition
    x: tuple[float, float, float]
    y: tuple[float, float, float]


def tradeoffs(measures: Sequence[Measure]) -> list[tuple[Measure, Measure]]:
    """The pairs (x, y) that are drawn: the first behaviour against each capability, and its task's others.

    Those others are against the first capability; one over the rows of the base (`among`) is the same again, and is
    not drawn. Where no metric has such a role: the first of all against the first of each other task, or of its own
    task's others.
    """
    behaviour = next((each for each in measures if each.role == "behaviour"), None)
    capabilities = [each for each in measures if each.role == "capability"]
    if behaviour is not None and capabilities:
        of_task = [each for each in measures if each.task == behaviour.task and each.role == "behaviour"]
        alike = [each for each in of_task if each != behaviour and not each.among]
        return [(each, behaviour) for each in capabilities] + [(capabilities[0], each) for each in alike]
    if not measures:
        return []
    first = behaviour or next((each for each in measures if each.role is None), measures[0])
    others = capabilities or [each for each in measures if each.task != first.task]
    heads = {each.task: each for each in reversed(others)}  # the first of each task
    chosen = [each for each in others if heads[each.task] == each]
    return [(each, first) for each in chosen or [each for each in measures if each != first][:1]]


def bounds(estimate: Estimate | None) -> tuple[float, float, float] | None:
    """(value, low, high) where the estimate is defined; an end that is not known is the value."""
    if estimate is None or estimate.value is None:
        return None
    low = estimate.value if estimate.low is None else estimate.low
    return estimate.value, low, estimate.value if estimate.high is None else estimate.high


@own_style
def tradeoff(
    found: Mapping[tuple[str, str, str], Estimate], conditions: Sequence[Condition], x: Measure, y: Measure
) -> Figure | None:
    """The picture of two metrics, with both 95% intervals as bars; None where fewer than two points are defined."""
    points = {}
    for each in conditions:
        across = bounds(found.get((x.task, x.metric, each.name)))
        up = bounds(found.get((y.task, y.metric, each.name)))
        if across is not None and up is not None:
            points[each.name] = Point(each, across, up)
    drawn = lines([point.condition for point in points.values()])
    base = base_of([point.condition for point in points.values()])
    if len(points) < 2:
        return None
    figure = Figure(figsize=(7.2, 5.4))
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line in drawn:
        _draw_line(axes, line, points, points[base.name] if base else None)
    if base:
        _bars(axes, points[base.name], "0.45")
        centre = points[base.name]
        axes.plot(centre.x[0], centre.y[0], "*", color="white", markeredgecolor="black", markersize=17, zorder=5)
    _limits(axes, list(points.values()), x, y)
    axes.set_xlabel(axis_label(x, found, conditions))
    axes.set_ylabel(axis_label(y, found, conditions))
    axes.set_title("the star is the base; darker is a larger |k|; bars are 95% intervals", fontsize=9)
    axes.grid(alpha=0.25)
    corner = _good_corner(axes, x, y)
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, map(label, names), fontsize=8, framealpha=0, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    _label(figure, canvas, axes, drawn, points, base, corner)
    return figure


def axis_label(
    measure: Measure, found: Mapping[tuple[str, str, str], Estimate], conditions: Sequence[Condition]
) -> str:
    """The metric, and beneath it its task, what is better, and the most that any of its points hides."""
    told = [measure.task]
    told += [measure.unit] if measure.unit else []
    told += [f"{measure.better} is better"] if measure.better else []
    mine = [found.get((measure.task, measure.metric, each.name)) for each in conditions]
    hidden = [(failed(each), each.n + failed(each)) for each in mine if each is not None and failed(each)]
    if hidden:
        most, among = max(hidden)
        told.append(f"up to {most} of {among} unscored")
    return f"{label(measure.metric)}\n{label('; '.join(told))}"


def failed(estimate: Estimate) -> int:
    """The rows of the metric without a value, for whatever reason but that they are outside of it."""
    return sum(estimate.unscored.values())


def _draw_line(axes: Axes, line: Line, points: Mapping[str, Point], base: Point | None) -> None:
    """The line through the base, at its k of 0, and a mark with bars for each condition."""
    mine = [points[each.name] for each in line.points]
    if line.axis in ("k", "step"):
        path = sorted(
            [(line.where(each.condition), each) for each in mine] + ([(0.0, base)] if base else []),
            key=lambda pair: pair[0],
        )
        style = "--" if line.control else "-"
        along = [each for _, each in path]
        axes.plot(
            [each.x[0] for each in along],
            [each.y[0] for each in along],
            style,
            color=line.colour,
            linewidth=1,
            alpha=0.5,
        )
    for each in mine:
        colour = line.shade(each.condition)
        _bars(axes, each, colour)
        axes.plot(
            *(each.x[0], each.y[0], line.mark),
            color="white" if line.control else colour,
            markeredgecolor=line.colour,
            markersize=5 if line.axis == "block" else 7,
            zorder=4,
        )
    axes.plot(
        [], [], line.mark, color=line.colour, linestyle="-" if line.axis in ("k", "step") else "", label=line.name
    )


def _bars(axes: Axes, point: Point, colour: str) -> None:
    (x, left, right), (y, low, high) = point.x, point.y
    sides = [[max(x - left, 0)], [max(right - x, 0)]], [[max(y - low, 0)], [max(high - y, 0)]]
    axes.errorbar(x, y, xerr=sides[0], yerr=sides[1], ecolor=colour, elinewidth=0.8, alpha=0.45, fmt="none", zorder=2)


def _limits(axes: Axes, points: Sequence[Point], x: Measure, y: Measure) -> None:
    across, up = [each.x for each in points], [each.y for each in points]
    axes.set_xlim(*span(across, x))
    axes.set_ylim(*span(up, y))


def span(values: Sequence[tuple[float, float, float]], measure: Measure) -> tuple[float, float]:
    """The ends of an axis that holds these (value, low, high), with a margin."""
    low, high = min(each[1] for each in values), max(each[2] for each in values)
    least = LEAST_SPAN if measure.kind == "share" else 1e-9 + 0.02 * abs(high)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    margin = 0.06 * (high - low)
    if measure.kind == "share":
        return max(low - margin, -0.02), min(high + margin, 1.02)
    return low - margin, high + margin


def _good_corner(axes: Axes, x: Measure, y: Measure) -> tuple[float, float] | None:
    """Shade the corner where both metrics are best; its place as shares of the axes."""
    if x.better is None or y.better is None:
        return None
    corner = float(x.better == "higher"), float(y.better == "higher")
    quarter = {(1.0, 1.0): 180, (0.0, 1.0): 270, (0.0, 0.0): 0, (1.0, 0.0): 90}[corner]
    shade = Wedge(corner, 0.13, quarter, quarter + 90, transform=axes.transAxes, color=GOOD, alpha=0.2, linewidth=0)
    axes.add_patch(shade)
    axes.text(
        0.985 if corner[0] else 0.015,
        0.985 if corner[1] else 0.015,
        "better",
        transform=axes.transAxes,
        color="#00684C",
        fontsize=8,
        ha="right" if corner[0] else "left",
        va="top" if corner[1] else "bottom",
    )
    return corner


def _label(
    figure: Figure,
    canvas: FigureCanvasAgg,
    axes: Axes,
    drawn: Sequence[Line],
    points: Mapping[str, Point],
    base: Condition | None,
    corner: tuple[float, float] | None,
) -> None:
    """Name the points where there is room; the base and the ends of each line always."""
    renderer = canvas.get_renderer()
    texts: list[tuple[str, Point, bool, str]] = [("base", points[base.name], True, "black")] if base else []
    for line in drawn:
        ends = (line.points[0].name, line.points[-1].name) if line.axis != "block" else ()
        for each in line.points:
            texts.append((point_label(line, each), points[each.name], each.name in ends, line.colour))
    style: dict[str, Any] = {"fontsize": 7.5, "ha": "left", "va": "bottom", "bbox": GROUND}
    shown = [axes.text(0, 0, label(text), color=colour, zorder=6, **style) for text, _, _, colour in texts]
    extents = [each.get_window_extent(renderer) for each in shown]
    pixels = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    centres = [tuple(axes.transData.transform((point.x[0], point.y[0]))) for _, point, _, _ in texts]
    half = MARK * pixels
    taken = [Box(x - half, y - half, x + half, y + half) for x, y in centres]
    if corner:
        width, height = 0.1 * frame.width, 0.06 * frame.height
        x, y = frame.x0 + corner[0] * (frame.width - width), frame.y0 + corner[1] * (frame.height - height)
        taken.append(Box(x, y, x + width, y + height))
    boxes = place(
        centres,
        [(each.width, each.height) for each in extents],
        [kept for _, _, kept, _ in texts],
        taken,
        Box(frame.x0 + pixels, frame.y0 + pixels, frame.x1 - 2 * pixels, frame.y1 - 2 * pixels),
        GAP * pixels,
    )
    for text, box in zip(shown, boxes, strict=True):
        if box is None:
            text.remove()
        else:
            x, y = axes.transData.inverted().transform((box.left, box.bottom))
            text.set_position((float(x), float(y)))


def point_label(line: Line, condition: Condition) -> str:
    """What stands beside a point: its k, step or block, or the method where there is no such number."""
    if line.axis == "none":
        return condition.method
    value = k_text(line.where(condition))
    return {"k": f"k={value}", "step": f"step {value}", "block": value}[line.axis]
