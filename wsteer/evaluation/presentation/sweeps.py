"""Pictures of where a change acts: block by block, and part by part of an attribution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsteer.evaluation.conditions import Condition, k_text
from wsteer.evaluation.presentation.lines import COLOURS, layer_sweeps, stem
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.summary import Estimate
from wsteer.files.pictures import label, own_style

MOST_PANELS = 4
Estimates = Mapping[tuple[str, str, str], Estimate]  # by task, metric, name of the condition
Ends = tuple[float, float, float]  # a difference, and low and high end of its interval
# the bars of a part: its name in the legend, its colour and its pattern
BARS = {"keep": ("this part alone", "#0072B2", ""), "drop": ("all but this part", "#E69F00", "//")}
RANDOM = ("random of the same norm", "#BBBBBB", "..")


@dataclass(frozen=True)
class Best:
    """The block of a sweep at which a metric moves most, up or down: a k above 0 may make a behaviour worse."""

    method: str
    k: float
    task: str
    metric: str
    block: int
    difference: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """One line for the terminal and the page."""
        return (
            f"{self.method} k={k_text(self.k)}: {self.task} {self.metric} changes most at block {self.block}, "
            f"the paper's layer {self.block + 1}: {self.difference:+.3g} ({self.low:+.3g} to {self.high:+.3g})"
        )


def best_blocks(found: Estimates, conditions: Sequence[Condition], measures: Sequence[Measure]) -> list[Best]:
    """For each layer sweep the best block by its first behaviour metric, or by its first metric where none is one."""
    measure = _first(measures)
    best = (_best(found, sweep, measure) for sweep in layer_sweeps(conditions))
    return [each for each in best if each is not None]


def _first(measures: Sequence[Measure]) -> Measure | None:
    """The metric that the pictures of parts are about: the first behaviour, or the first of all."""
    return next((each for each in measures if each.role == "behaviour"), next(iter(measures), None))


def _best(found: Estimates, sweep: Sequence[Condition], measure: Measure | None) -> Best | None:
    if measure is None:
        return None
    known = [(each, _difference(found, measure, each)) for each in sweep]
    differences = [(each, difference) for each, difference in known if difference is not None]
    if not differences:
        return None
    each, (value, low, high) = max(differences, key=lambda pair: abs(pair[1][0]))
    return Best(stem(each.method), each.k, measure.task, measure.metric, _block(each), value, low, high)


def _block(condition: Condition) -> int:
    """The one block of a condition of a sweep."""
    return (condition.layers or (0,))[0]


def _difference(found: Estimates, measure: Measure, condition: Condition) -> Ends | None:
    """The difference to the base and the ends of its interval, which are the difference where they are not known."""
    estimate = found.get((measure.task, measure.metric, condition.name))
    compared = estimate.against_base if estimate else None
    if compared is None or compared.difference is None:
        return None
    value = compared.difference
    return value, value if compared.low is None else compared.low, value if compared.high is None else compared.high


@own_style
def layer_sweep(found: Estimates, conditions: Sequence[Condition], measures: Sequence[Measure]) -> Figure | None:
    """The difference to the base against the block, a panel for each metric with a role; None without a sweep."""
    sweeps = layer_sweeps(conditions)
    shown = [each for each in measures if each.role] or list(measures[:1])
    if not sweeps or not shown:
        return None
    shown = shown[:MOST_PANELS]
    figure = Figure(figsize=(7.2, 0.6 + 2.5 * len(shown)), layout="constrained")
    panels = list(figure.subplots(len(shown), 1, squeeze=False, sharex=True).flatten())
    for panel, measure in zip(panels, shown, strict=True):
        for number, sweep in enumerate(sweeps):
            _draw_sweep(panel, found, sweep, measure, COLOURS[number % len(COLOURS)])
            best = _best(found, sweep, _first(measures))
            if best is not None:
                name = f"best block of {best.metric}: {best.block}"
                panel.axvline(best.block, color=COLOURS[number % len(COLOURS)], linestyle=":", label=label(name))
        panel.axhline(0, color="0.3", linewidth=0.8)
        panel.set_ylabel("difference to base", fontsize=8)
        panel.set_title(f"{label(measure.task)}: {label(measure.metric)}", fontsize=9)
        panel.grid(alpha=0.25)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    panels[-1].set_xlabel("decoder block, counted from 0")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_sweep(
    axes: Axes,
    found: Estimates,
    sweep: Sequence[Condition],
    measure: Measure,
    colour: str,
) -> None:
    known = [(_block(each), _difference(found, measure, each)) for each in sweep]
    points = [(block, *difference) for block, difference in known if difference is not None]
    if not points:
        return
    name = f"{stem(sweep[0].method)} k={k_text(sweep[0].k)}"
    axes.errorbar(
        [block for block, *_ in points],
        [value for _, value, _, _ in points],
        yerr=[[max(v - low, 0) for _, v, low, _ in points], [max(high - v, 0) for _, v, _, high in points]],
        color=colour,
        fmt="o-",
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        label=label(name),
    )


# ---- Attribution


@own_style
def attribution(found: Estimates, conditions: Sequence[Condition], measures: Sequence[Measure]) -> Figure | None:
    """Bars of what each part does alone, what is left without it, and what random numbers of its norm do.

    A panel for each change (method and k); the metric is the first behaviour one. None without an attribution.
    """
    parts = [each for each in conditions if each.part]
    measure = _first(measures)
    changes = list(dict.fromkeys((_method(each), each.k) for each in parts))[:MOST_PANELS]
    if measure is None or not changes:
        return None
    names = list(dict.fromkeys(_named(each)[1] for each in parts))
    figure = Figure(figsize=(1.2 + 5.4 * len(changes), 1.4 + 0.42 * len(names)), layout="constrained")
    panels = list(figure.subplots(1, len(changes), squeeze=False, sharey=True).flatten())
    for panel, (method, k) in zip(panels, changes, strict=True):
        mine = [each for each in parts if (_method(each), each.k) == (method, k)]
        _draw_bars(panel, found, mine, measure, names)
        whole = next((e for e in conditions if not (e.part or e.control) and (e.method, e.k) == (method, k)), None)
        full = _difference(found, measure, whole) if whole else None
        if full is not None:
            panel.axvline(full[0], color="black", linestyle="--", linewidth=1, label="the whole change")
        panel.axvline(0, color="0.3", linewidth=0.8)
        panel.set_title(f"{label(method)} k={k_text(k)}", fontsize=9)
        panel.set_xlabel(f"difference of {label(measure.metric)} to base", fontsize=9)
        panel.grid(alpha=0.25, axis="x")
    panels[0].set_yticks(range(len(names)), map(label, names), parse_math=False, fontsize=8)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles, told = panels[0].get_legend_handles_labels()
    figure.legend(handles, told, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _named(condition: Condition) -> tuple[str, str]:
    """(`keep`, `layer 3`) of `keep layer 3`; a control's first word is `random`."""
    action, _, name = (condition.part or "").partition(" ")
    return ("random" if condition.control else action), name


def _method(condition: Condition) -> str:
    """The method without the control that was made of it: `w` of `w random`."""
    return condition.method.removesuffix(f" {condition.control}") if condition.control else condition.method


def _draw_bars(
    axes: Axes,
    found: Estimates,
    parts: Sequence[Condition],
    measure: Measure,
    names: Sequence[str],
) -> None:
    kinds = {**BARS, "random": RANDOM}
    present = [kind for kind in kinds if any(_named(each)[0] == kind for each in parts)]
    height = 0.8 / max(len(present), 1)
    for number, kind in enumerate(present):
        title, colour, hatch = kinds[kind]
        mine = [(_named(each)[1], _difference(found, measure, each)) for each in parts if _named(each)[0] == kind]
        bars = [(names.index(name), *difference) for name, difference in mine if difference is not None]
        at = [place + (number - (len(present) - 1) / 2) * height for place, *_ in bars]
        axes.barh(
            at,
            [value for _, value, _, _ in bars],
            height,
            xerr=[[max(v - low, 0) for _, v, low, _ in bars], [max(high - v, 0) for _, v, _, high in bars]],
            color=colour,
            hatch=hatch,
            edgecolor="white" if not hatch else "0.3",
            linewidth=0.4,
            error_kw={"elinewidth": 0.8, "ecolor": "0.25"},
            label=title,
        )
