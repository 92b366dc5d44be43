"""Stacked bars of the shares that together are all rows, one bar for each condition."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.tradeoff import GROUND
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.summary import Estimate
from wsteer.files.pictures import label, own_style

MOST_BARS = 100  # of one picture
LEAST_TOLD = 0.06  # the smallest share that has its percentage in it
UNGRADED, INVALID, DOUBTFUL = "no verdict", "invalid", "inconsistent"
GREY, HATCH = "#BBBBBB", "///"
# of Okabe and Ito's colours the cold ones for what is better the more there is of it, the warm ones for all else
COLD, WARM = ("#0072B2", "#009E73", "#56B4E9"), ("#D55E00", "#E69F00", "#CC79A7")


@dataclass(frozen=True)
class Bar:
    """One condition: how many rows are in each part, in the order of the parts, and in none for lack of a verdict."""

    label: str
    counts: tuple[int, ...]
    ungraded: int

    @property
    def rows(self) -> int:
        """All rows; each is in one part, or ungraded."""
        return sum(self.counts) + self.ungraded


def stacked(measures: Sequence[Measure]) -> dict[tuple[str, str], list[Measure]]:
    """The metrics that are parts of one bar, by (task, bar), in the order in which they are stacked."""
    found: dict[tuple[str, str], list[Measure]] = {}
    for each in measures:
        if each.bar:
            found.setdefault((each.task, each.bar), []).append(each)
    return found


def bars_of(
    found: Mapping[tuple[str, str, str], Estimate], conditions: Sequence[Condition], parts: Sequence[Measure]
) -> list[Bar]:
    """The bar of each condition that has all the parts, as counts of rows.

    A row may lack a verdict in some parts alone: it is ungraded if it is in no part.
    """
    made = []
    for condition in conditions:
        mine = [found.get((part.task, part.metric, condition.name)) for part in parts]
        known = [each for each in mine if each is not None and each.numerator is not None]
        rows = max((each.n + sum(each.unscored.values()) for each in known), default=0)
        counts = tuple(each.numerator or 0 for each in known)
        if rows and len(known) == len(parts) and sum(counts) <= rows:
            made.append(Bar(condition.label, counts, rows - sum(counts)))
    return made


@own_style
def bars(
    found: Mapping[tuple[str, str, str], Estimate], conditions: Sequence[Condition], parts: Sequence[Measure]
) -> Figure | None:
    """A bar for each condition, from the first one down; None without one. Shares are of all rows, also ungraded ones.

    Parts named `...inconsistent` are hatched, in the colour of their `...consistent` ones; numbered ones go from
    dark to light.
    """
    made = bars_of(found, conditions, parts)[:MOST_BARS]
    if not made:
        return None
    names, looks = [part.metric for part in parts], _looks(parts)
    if any(bar.ungraded for bar in made):
        names, looks = [*names, UNGRADED], [*looks, ("white", "..")]
    figure = Figure(figsize=(8.2, 1.5 + 0.3 * len(made)), layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, made, names, looks)
    axes.set_yticks(range(len(made)), [label(bar.label) for bar in made], parse_math=False, fontsize=8)
    axes.set_ylim(len(made) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_xlabel(f"share of all rows; {label(parts[0].task)}", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    handles, told = axes.get_legend_handles_labels()
    figure.legend(handles, told, loc="outside upper center", ncols=min(3, len(told)), fontsize=8, handleheight=1.2)
    return figure


def _draw(axes: Axes, made: Sequence[Bar], names: Sequence[str], looks: Sequence[tuple[str, str]]) -> None:
    starts = [0.0] * len(made)
    for number, (name, (colour, hatch)) in enumerate(zip(names, looks, strict=True)):
        shares = [(*bar.counts, bar.ungraded)[number] / bar.rows for bar in made]
        axes.barh(
            range(len(made)),
            shares,
            0.78,
            left=starts,
            color=colour,
            hatch=hatch,
            edgecolor="0.5" if colour == "white" else "white",
            linewidth=0.5,
            label=label(name),
        )
        for at, (start, share) in enumerate(zip(starts, shares, strict=True)):
            if share >= LEAST_TOLD:
                axes.text(
                    start + share / 2, at, f"{100 * share:.0f}%", ha="center", va="center", fontsize=6.5, bbox=GROUND
                )
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    for at, bar in enumerate(made):
        axes.text(1.01, at, f"n={bar.rows}", va="center", fontsize=6.5, clip_on=False)


def _looks(parts: Sequence[Measure]) -> list[tuple[str, str]]:
    """A colour and a hatch for each part, told apart by colour-blind people too."""
    if all(part.metric[-1:].isdecimal() for part in parts):
        shades = matplotlib.colormaps["cividis"]
        return [(to_hex(shades(number / max(len(parts) - 1, 1))), "") for number in range(len(parts))]
    colours: dict[str, str] = {INVALID: GREY}
    cold, warm = itertools.cycle(COLD), itertools.cycle(WARM)
    for part in parts:
        if _stem(part.metric) not in colours:
            colours[_stem(part.metric)] = next(cold if part.better == "higher" else warm)
    return [(colours[_stem(part.metric)], HATCH if part.metric.endswith(DOUBTFUL) else "") for part in parts]


def _stem(name: str) -> str:
    """What `evil_consistent` and `evil_inconsistent` have in common."""
    return name.removesuffix(DOUBTFUL).removesuffix("consistent")
