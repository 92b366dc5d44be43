"""Pictures of projections: against the decoder block, and against the training step."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsteer.deltas.blocks import block_text
from wsteer.files.pictures import own_style
from wsteer.monitoring.pictures import RunPanel, Series, panels, small_legend, steps_picture
from wsteer.monitoring.projections import PROMPT_END, ROWS_OF, Projection, by_step, shown_blocks
from wsteer.monitoring.trajectories import Scores


@own_style
def projection_picture(found: Sequence[Projection]) -> Figure:
    """Mean projections by decoder block with intervals: a panel for each delta, and for each delta and tuned model."""
    drawn = list(dict.fromkeys((each.model, each.delta) for each in found))
    figure, panel_axes = panels(len(drawn), width=4.4, height=3.4, margin=0.8)
    for axes, (model, delta) in zip(panel_axes, drawn, strict=True):
        for data in dict.fromkeys(each.data for each in found):
            points = [each for each in found if (each.model, each.delta, each.data) == (model, delta, data)]
            if not points:  # a data set without answers has no projection of them
                continue
            blocks, means = [each.block for each in points], [each.mean for each in points]
            (line,) = axes.plot(blocks, means, marker="o", markersize=3, label=data)
            lows = [each.mean if each.low is None else each.low for each in points]
            highs = [each.mean if each.high is None else each.high for each in points]
            axes.fill_between(blocks, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xlabel("decoder block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(f"projection on {delta}")
        axes.set_title(f"{_title(model, _positions(found, model))} (bands: 95%)", fontsize=10)
        axes.grid(alpha=0.25)
        small_legend(axes)
    return figure


def _positions(found: Sequence[Projection], model: str | None) -> str:
    return next(each.positions for each in found if each.model == model)


def _title(model: str | None, positions: str) -> str:
    if model is None:
        return "answers"
    return f"shift of {model}\nat the prompts' ends" if positions == PROMPT_END else f"shift of {model}\nin the answers"


def projections_by_step(found: Sequence[Projection], count: int, scores: Scores | None = None) -> Figure:
    """Shifts by training step: a panel for each run, data set and one of a few blocks, a line for each vector.

    The base is step 0, where nothing has shifted. Bands are 95% intervals; the grey one holds 95% of random directions.
    `count` is the model's number of blocks.
    """
    steps, shown = by_step(found), shown_blocks(found)
    drawn = dict.fromkeys((each.run, each.data, each.block) for each in steps if each.block in shown)
    of_panel = [[each for each in steps if (each.run, each.data, each.block) == key] for key in drawn]
    return steps_picture([_panel(each, count) for each in of_panel], "projection of the shift", scores)


def _panel(found: Sequence[Projection], count: int) -> RunPanel:
    """The panel of one run, data set and block."""
    first = found[0]
    by_delta: dict[str, list[Projection]] = {}
    for each in found:
        by_delta.setdefault(each.vector, []).append(each)
    of_one = next(iter(by_delta.values()))  # all have the same steps, and at each the same noise
    steps = [each.step or 0 for each in of_one]
    start = [] if 0 in steps else [0]
    zeros = [0.0 for _ in start]

    def series(label: str, points: Sequence[Projection]) -> Series:
        lows = [each.mean if each.low is None else each.low for each in points]
        highs = [each.mean if each.high is None else each.high for each in points]
        return Series(label, [*zeros, *(each.mean for each in points)], [*zeros, *lows], [*zeros, *highs])

    return RunPanel(
        str(first.run),
        [*start, *steps],
        [series(label, points) for label, points in by_delta.items()],
        title=f"{first.run}, {ROWS_OF[first.positions].format(first.data)}\n{block_text(first.block, count)}",
        noise=[*zeros, *(2 * (each.noise or 0.0) for each in of_one)],
    )
