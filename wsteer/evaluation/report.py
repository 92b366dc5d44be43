"""An evaluation's results as a table in CSV and as the trade-off picture."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from wsteer.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from wsteer.evaluation.results import Condition, EvalReport

COLUMNS = ("task", "k", "metric", "value", "low", "high", "numerator", "denominator", "abstained")


def write_csv(path: Path, report: "EvalReport") -> None:
    """One line a metric and k; an undefined value is an empty field."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for condition in report.conditions:
            for name, share in condition.metrics.items():
                writer.writerow({"task": report.task, "k": condition.k, "metric": name, **vars(share)})


def write_tradeoff(path: Path, report: "EvalReport", task: Task, delta: str | None) -> None:
    """The behaviour (y) against the capability (x): a point with 95% bars for every k, the base as a star."""
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.add_subplot()
    drawn = [c for c in report.conditions if None not in (c.metrics[task.x].value, c.metrics[task.y].value)]
    drawn.sort(key=lambda condition: condition.k)
    axes.plot(
        [c.metrics[task.x].value for c in drawn], [c.metrics[task.y].value for c in drawn], color="0.75", zorder=1
    )
    reach = max([abs(condition.k) for condition in drawn] + [1e-9])
    colours = matplotlib.colormaps["coolwarm"]
    for condition in drawn:
        _draw_point(axes, condition, task, colours(0.5 + 0.5 * condition.k / reach))
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=f"{task.x} (share)", ylabel=f"{task.y} (share)")
    axes.set_title(
        f"{task.name}: {delta or 'no delta'}, {report.facts} facts, bars are 95% intervals",
        fontsize=10,
        parse_math=False,
    )
    axes.grid(alpha=0.25)
    # no software name or date in the file, so that equal results give equal bytes
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})


def _draw_point(axes, condition: "Condition", task: Task, colour: tuple[float, ...]) -> None:
    x, y = condition.metrics[task.x], condition.metrics[task.y]
    bars = {"xerr": [[x.value - x.low], [x.high - x.value]], "yerr": [[y.value - y.low], [y.high - y.value]]}
    marker, size = ("*", 15) if condition.k == 0 else ("o", 8)
    axes.errorbar(x.value, y.value, **bars, color=colour, ecolor="0.7", elinewidth=0.8, zorder=2, fmt="none")
    axes.plot(x.value, y.value, marker, color=colour, markersize=size, markeredgecolor="0.2", zorder=3)
    label = "k = 0 (base)" if condition.k == 0 else f"k = {condition.k:g}"
    # beside the point, on the side with room, on a ground that keeps it legible over the bars
    side, offset = ("right", (-7, 7)) if x.value > 0.85 else ("left", (7, 7))
    ground = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
    place = {"xytext": offset, "textcoords": "offset points", "ha": side}
    axes.annotate(label, (x.value, y.value), **place, bbox=ground, fontsize=8.5, zorder=4)
