"""A picture of activation vectors over decoder blocks: their size, and how far halves of the rows agree on them."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from wsteer.files.pictures import own_style

HALVES = "cosine of the two halves of the rows"
EXPLAINED = "share of the differences that it explains"


@own_style
def block_picture(
    title: str,
    norms: Sequence[float],
    residual_norms: Sequence[float],
    half_cosines: Sequence[float | None] | None,
    explained: Sequence[float] | None = None,
) -> Figure:
    """Three panels over the blocks: the norms on a logarithmic scale, their ratio, the cosine of the halves."""
    blocks = range(len(norms))
    figure = Figure(figsize=(6.4, 7.4), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    style = {"marker": "o", "markersize": 3, "linewidth": 1.4}
    above.semilogy(blocks, norms, label="the vector", **style)
    above.semilogy(blocks, residual_norms, color="0.5", label="the mean residual stream", **style)
    sizes = [size for size in (*norms, *residual_norms) if size > 0]
    few = not sizes or max(sizes) < 1000 * min(sizes)  # decades, so that all these labels have room
    above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    above.yaxis.set_major_formatter(lambda size, _: f"{size:g}")  # the usual one writes mathematics
    above.yaxis.set_minor_formatter(NullFormatter())
    above.set_ylabel("norm")
    _legend(above, loc="best")
    ratios = [norm / mean if mean else 0.0 for norm, mean in zip(norms, residual_norms, strict=True)]
    middle.plot(blocks, ratios, **style)
    middle.set_ylabel("norm of the vector /\nnorm of the mean")
    middle.set_ylim(0, 1.1 * max(ratios) or 1)
    if half_cosines is not None:
        known = [(block, each) for block, each in zip(blocks, half_cosines, strict=True) if each is not None]
        below.plot([block for block, _ in known], [each for _, each in known], label=HALVES, **style)
        below.axhline(0, color="0.4", linewidth=0.8)
    if explained is not None:
        below.plot(blocks, explained, color="C1", label=EXPLAINED, **{**style, "marker": "s"})
    below.set_ylim(top=1.05)
    below.set_ylabel("cosine" if explained is None else "cosine, share")
    if below.get_legend_handles_labels()[0]:
        _legend(below, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # where it covers nothing
    below.set_xlabel("decoder block")
    below.set_xlim(-0.8, len(norms) - 0.2)  # the paper has no layer 0
    for axes in (above, middle, below):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
    layers = above.secondary_xaxis("top", functions=(lambda block: block + 1, lambda layer: layer - 1))
    layers.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    layers.set_xlabel("the paper's layer")
    above.set_title(title, fontsize=10)
    return figure


def _legend(axes: Axes, **place: Any) -> None:
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none", **place)
