"""An evaluation's results as a table in CSV and as the trade-off picture."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsteer.evaluation.results import EvalReport, doubts
from wsteer.evaluation.tasks.task import Task
from wsteer.files.pictures import label, own_style, save
from wsteer.files.text import write_csv

COLUMNS = ("task", "k", "metric", "value", "low", "high", "numerator", "denominator", "abstained", "cut")
NEAR = (0.2, 0.07)  # the share of the axes that a label takes, across and up
Bounds = tuple[float, float, float]  # of a share: value, and low and high end of its interval


def write_results(path: Path, report: EvalReport) -> None:
    """One line for each metric and k; an undefined value is an empty field."""
    write_csv(
        path,
        COLUMNS,
        (
            {"task": report.task, "k": condition.k, "metric": name, **vars(share)}
            for condition in report.conditions
            for name, share in condition.metrics.items()
        ),
    )


@own_style
def write_tradeoff(path: Path, report: EvalReport, task: Task, delta: str | None) -> None:
    """The behaviour (y) against the capability (x): a point with 95% bars for every k, the base as a star."""
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.add_subplot()
    drawn: list[tuple[float, Bounds, Bounds]] = []
    for condition in sorted(report.conditions, key=lambda condition: condition.k):
        x, y = condition.metrics[task.x].bounds, condition.metrics[task.y].bounds
        if x is not None and y is not None:
            drawn.append((condition.k, x, y))
    axes.plot([x for _, (x, _, _), _ in drawn], [y for _, _, (y, _, _) in drawn], color="0.75", zorder=1)
    reach = max([abs(k) for k, _, _ in drawn] + [1e-9])
    colours = matplotlib.colormaps["coolwarm"]
    for k, x, y in drawn:
        # of two points whose labels would cover each other, the lower one's is below it
        near = (o for o in drawn if abs(o[1][0] - x[0]) < NEAR[0] and abs(o[2][0] - y[0]) < NEAR[1])
        below = any((o[2][0], o[0]) > (y[0], k) for o in near)
        _draw_point(axes, k, x, y, colours(0.5 + 0.5 * k / reach), below)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_xlabel(axis_label(report, task.x))
    axes.set_ylabel(axis_label(report, task.y))
    axes.set_title(
        f"{label(task.name)}: {label(delta or 'no delta')}\n{report.facts} facts, bars are 95% intervals",
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    save(figure, path)


def axis_label(report: EvalReport, metric: str) -> str:
    """`accuracy (share; of 16 up to 12 abstained, 3 cut)`: the metric, and the most that any of its points hides."""
    found = [condition.metrics[metric] for condition in report.conditions]
    hidden = doubts(max(share.abstained for share in found), max(share.cut for share in found))
    most = max(share.denominator for share in found)
    return f"{label(metric)} (share; of {most} up to {hidden})" if hidden else f"{label(metric)} (share)"


def _draw_point(
    axes: Axes, k: float, x_bounds: Bounds, y_bounds: Bounds, colour: tuple[float, ...], below: bool
) -> None:
    (x, x_low, x_high), (y, y_low, y_high) = x_bounds, y_bounds
    across, up = [[x - x_low], [x_high - x]], [[y - y_low], [y_high - y]]
    axes.errorbar(x, y, xerr=across, yerr=up, color=colour, ecolor="0.7", elinewidth=0.8, zorder=2, fmt="none")
    marker, size = ("*", 15) if k == 0 else ("o", 8)
    axes.plot(x, y, marker, color=colour, markersize=size, markeredgecolor="0.2", zorder=3)
    text = "k = 0 (base)" if k == 0 else f"k = {k:g}"
    # beside the point, on the side with room, on a background that keeps it readable over the bars
    side, across_by = ("right", -7) if x > 0.85 else ("left", 7)
    offset = (across_by, -15 if below else 7)
    ground = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", ha=side, bbox=ground, fontsize=8.5, zorder=4)
