"""A picture of activation vectors over decoder blocks: their size, and how far halves of the rows agree on them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from wsteer.files.pictures import own_style

SHARES = "cosine of the two halves of the rows"
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
    for set_formatter in (above.yaxis.set_major_formatter, above.yaxis.set_minor_formatter):
        set_formatter(LogFormatter(minor_thresholds=(2, 0.4)))  # the usual one writes mathematics
    above.set_ylabel("norm")
    _legend(above)
    middle.plot(
        blocks, [norm / mean if mean else None for norm, mean in zip(norms, residual_norms, strict=True)], **style
    )
    middle.set_ylabel("norm of the vector /\nnorm of the mean")
    middle.set_ylim(bottom=0)
    if half_cosines is not None:
        known = [(block, each) for block, each in zip(blocks, half_cosines, strict=True) if each is not None]
        below.plot([block for block, _ in known], [each for _, each in known], label=SHARES, **style)
        below.axhline(0, color="0.4", linewidth=0.8)
    if explained is not None:
        below.plot(blocks, explained, color="C1", label=EXPLAINED, **{**style, "marker": "s"})
    below.set_ylim(top=1.05)
    below.set_ylabel("cosine" if explained is None else "cosine, share")
    if below.has_data():
        _legend(below)
    below.set_xlabel("decoder block")
    below.set_xlim(-0.8, len(norms) - 0.2)  # the paper has no layer 0
    for axes in (above, middle, below):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    layers = above.secondary_xaxis("top", functions=(lambda block: block + 1, lambda layer: layer - 1))
    layers.xaxis.set_major_locator(MaxNLocator(integer=True))
    layers.set_xlabel("the paper's layer")
    above.set_title(title, fontsize=10)
    return figure


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")
