"""The losses of all rates: a table of the validations, and a picture with the choice marked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsteer.files.pictures import own_style, save
from wsteer.files.text import write_csv
from wsteer.training.log import COSINE

if TYPE_CHECKING:
    from wsteer.training.rates import TrainedRate

PICTURE = "loss.png"
COLUMNS = ("rate", "step", "train_loss", "val_loss", "kept")


def write_sweep(path: Path, trained: Sequence["TrainedRate"], best: "TrainedRate") -> None:
    """A line per validation (and chosen step): mean train loss since the last line, validation loss, 1 if kept."""
    write_csv(path, COLUMNS, _validations(trained, best))


def _validations(trained: Sequence["TrainedRate"], best: "TrainedRate") -> Iterator[dict[str, object]]:
    for each in trained:
        since: list[float] = []
        for row in each.log:
            since += [row["train_loss"]] if row["train_loss"] is not None else []
            if row["val_loss"] is None and row["step"] != each.step:
                continue
            yield {
                "rate": each.rate,
                "step": row["step"],
                "train_loss": sum(since) / len(since) if since else None,
                "val_loss": row["val_loss"],
                "kept": int(each is best and row["step"] == each.step),
            }
            since = []


@own_style
def write_curves(path: Path, trained: Sequence["TrainedRate"], best: "TrainedRate") -> None:
    """Train loss (thin) and validation loss (points) of every rate; below, the cosines with the watched deltas."""
    cosines = sorted({key for each in trained for row in each.log for key in row if key.startswith(COSINE)})
    figure = Figure(figsize=(7.2, 4.4 + (2.6 if cosines else 0)))
    heights = [4.4, 2.6] if cosines else [4.4]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    colours = matplotlib.colormaps["viridis"]
    for i, each in enumerate(trained):
        colour = colours(0.85 * i / max(len(trained) - 1, 1))
        _draw_losses(panels[0], each, colour)
        for style, name in zip(_styles(cosines), cosines, strict=True):
            points = [(row["step"], row[name]) for row in each.log if row.get(name) is not None]
            label = name.removeprefix(COSINE) if i == 0 else None
            panels[-1].plot(*zip(*points, strict=True), style, color=colour, markersize=3, linewidth=1.1, label=label)
    _mark_choice(panels[0], best)
    panels[0].set_ylabel("loss (nats a token)")
    panels[0].legend(fontsize=8.5)
    if cosines:
        panels[-1].axhline(0, color="0.8", linewidth=0.8, zorder=0)
        panels[-1].set_ylabel("cosine")
        panels[-1].legend(fontsize=8.5)
    panels[-1].set_xlabel("step")
    for panel in panels:
        panel.grid(alpha=0.25)
    save(figure, path)


def _styles(names: Sequence[str]) -> list[str]:
    lines = ("o-", "s--", "^:", "D-.")
    return [lines[i % len(lines)] for i in range(len(names))]


def _draw_losses(axes: Axes, each: "TrainedRate", colour: tuple[float, ...]) -> None:
    train = [(row["step"], row["train_loss"]) for row in each.log if row["train_loss"] is not None]
    validated = [(row["step"], row["val_loss"]) for row in each.log if row["val_loss"] is not None]
    name = f"lr {each.rate:g}" + (" (diverged)" if each.diverged else "")
    if train:
        axes.plot(*zip(*train, strict=True), color=colour, linewidth=0.8, alpha=0.55, label=f"{name}, train")
    if validated:
        axes.plot(*zip(*validated, strict=True), "o-", color=colour, markersize=4, label=f"{name}, validation")


def _mark_choice(axes: Axes, best: "TrainedRate") -> None:
    row = next(row for row in best.log if row["step"] == best.step)
    height = row["val_loss"] if row["val_loss"] is not None else row["train_loss"]
    label = f"kept: step {best.step} at lr {best.rate:g}"
    axes.plot(best.step, height, "*", color="crimson", markersize=15, markeredgecolor="white", zorder=5, label=label)
