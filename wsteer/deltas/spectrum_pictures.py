"""A picture of spectra: singular values by kind of module, and stable ranks by layer."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from wsteer.deltas.spectrum import Spectrum
from wsteer.files.pictures import label, own_style

LEAST = 1e-4  # of the edge: what is below is in the table alone
MANY = 128  # singular values: where there are more, their numbers are on a logarithmic axis
MOST_LETTERS = 24  # of a kind's name in the legend, which takes its room from the panels
MOST_KINDS = 10  # lines in a panel, as many as tab10 has colours


@own_style
def spectrum_picture(found: Sequence[Spectrum]) -> Figure:
    """Left: singular values over their Marchenko-Pastur edge, medians by kind of module. Right: stable ranks by layer.

    Of many kinds those with the largest norms are shown.
    """
    kinds: dict[str, list[Spectrum]] = {}
    for each in found:
        if len(each.values):
            kinds.setdefault(each.module, []).append(each)
    order = sorted(kinds, key=lambda kind: -math.fsum(each.square for each in kinds[kind]))
    shown = sorted(order[:MOST_KINDS])
    palette = matplotlib.colormaps["tab10"]
    colours = {kind: palette(number) for number, kind in enumerate(shown)}
    in_layers = any(each.layer.isdecimal() for kind in shown for each in kinds[kind])  # an embedding is in none
    figure = Figure(figsize=(10.5 if in_layers else 6.2, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if in_layers else 1, squeeze=False)[0]
    for kind in shown:
        _draw_values(panels[0], kind, kinds[kind], colours[kind])
        if in_layers:
            _draw_ranks(panels[1], kinds[kind], colours[kind])
    _finish_values(panels[0], many=any(len(each.values) > MANY for kind in shown for each in kinds[kind]))
    if in_layers:
        panels[1].set_ylabel("stable rank")
        panels[1].set_xlabel("layer")
        panels[1].set_ylim(bottom=0)
        _whole_numbers(panels[1])
    for panel in panels:
        panel.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    rest = f"the {MOST_KINDS} largest of {len(kinds)} kinds" if len(kinds) > len(shown) else None
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False, title=rest, title_fontsize=8)
    return figure


def _draw_values(axes: Axes, kind: str, found: Sequence[Spectrum], colour: tuple[float, ...]) -> None:
    """The median of each singular value over the matrices that have it."""
    scaled = [(each.values / each.edge).tolist() for each in found]
    medians = [
        statistics.median(values[index] for values in scaled if index < len(values))
        for index in range(max(map(len, scaled)))
    ]
    marker = "o" if len(medians) < 12 else ""  # a line of one point is invisible
    shown = label(kind, MOST_LETTERS)
    axes.plot(
        range(1, len(medians) + 1), medians, marker=marker, markersize=3.5, linewidth=1.3, color=colour, label=shown
    )


def _finish_values(axes: Axes, many: bool) -> None:
    """The line at the edge, and a logarithmic axis whose numbers are plain: others are written as mathematics."""
    axes.axhline(1, color="0.3", linewidth=1, linestyle="--")
    place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate("edge of noise", (0.985, 1), (0, 3), ha="right", fontsize=8, color="0.3", **place)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(plain if high < 100 * low else NullFormatter())
    axes.set_ylim(bottom=max(low, LEAST))
    if many:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        _whole_numbers(axes)
    axes.set_ylabel("singular value / Marchenko-Pastur edge")
    axes.set_xlabel("number of the singular value (medians)")


def _whole_numbers(axes: Axes) -> None:
    """Whole numbers alone below the panel, also where there is a single one; none before the first."""
    axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x1 + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_ranks(axes: Axes, found: Sequence[Spectrum], colour: tuple[float, ...]) -> None:
    """The median of the stable ranks in each layer; what is outside of the layers has no place here."""
    layers: dict[int, list[float]] = {}
    for each in found:
        if each.layer.isdecimal() and each.stable_rank is not None:
            layers.setdefault(int(each.layer), []).append(each.stable_rank)
    steps = sorted(layers)
    ranks = [statistics.median(layers[step]) for step in steps]
    if steps:
        axes.plot(steps, ranks, marker="o", markersize=3.5, linewidth=1.3, color=colour)
