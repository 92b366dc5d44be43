"""All pictures of an evaluation, by the names of their files."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.bars import bars, stacked
from wsteer.evaluation.presentation.curves import curves
from wsteer.evaluation.presentation.sweeps import attribution, layer_sweep
from wsteer.evaluation.presentation.tradeoff import tradeoff, tradeoffs
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.summary import Estimate
from wsteer.files.pictures import save

MOST_EACH = 8  # pictures of one kind, and panels of one picture: a group of many subtasks has hundreds of metrics


def write_pictures(
    folder: Path, estimates: Sequence[Estimate], measures: Sequence[Measure], conditions: Sequence[Condition]
) -> dict[str, Path]:
    """Write each picture as PNG and SVG into `folder`; title -> SVG file, in the order in which they are shown.

    `tradeoff.png` is the first trade-off. Equal input gives equal bytes.
    """
    found = {}
    for stem, (title, figure) in figures(estimates, measures, conditions).items():
        save(figure, folder / f"{stem}.png", svg=True)
        found[title] = folder / f"{stem}.svg"
    return found


def figures(
    estimates: Sequence[Estimate], measures: Sequence[Measure], conditions: Sequence[Condition]
) -> dict[str, tuple[str, Figure]]:
    """The pictures that these estimates make, by the stem of their file: a title, and the figure."""
    by_place = {(each.task, each.metric, each.condition): each for each in estimates}
    pictures: dict[str, tuple[str, Figure | None]] = {}

    def add(name: str, title: str, figure: Figure | None) -> None:
        free = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        pictures[next(each for each in free if each not in pictures)] = title, figure

    pairs = tradeoffs(measures)[:MOST_EACH]
    for number, (x, y) in enumerate(pairs):
        other = x if y == pairs[0][1] else y  # what differs from the first
        name = "tradeoff" if number == 0 else f"tradeoff-{_plain(other.task)}-{_plain(other.metric)}"
        title = f"Trade-off: {y.metric} ({y.task}) against {x.metric} ({x.task})"
        add(name, title, tradeoff(by_place, conditions, x, y))
    tasks = list(dict.fromkeys(each.task for each in measures))[:MOST_EACH]
    for task in tasks:
        mine = [each for each in measures if each.task == task][:MOST_EACH]
        add(f"curves-{_plain(task)}", f"{task}: metrics against k", curves(by_place, conditions, mine))
    for (task, bar), parts in list(stacked(measures).items())[:MOST_EACH]:
        add(f"bars-{_plain(task)}-{_plain(bar)}", f"{task}: {bar} of all rows", bars(by_place, conditions, parts))
    add("layers", "Layer sweep: difference to the base", layer_sweep(by_place, conditions, measures))
    add("attribution", "Attribution: difference to the base", attribution(by_place, conditions, measures))
    return {stem: (title, figure) for stem, (title, figure) in pictures.items() if figure is not None}


def _plain(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:40].strip(".") or "_"
