"""What pictures of projections by step draw: lines from the base at step 0, intervals, and the band of noise."""

from wsteer.monitoring.projection_pictures import projection_picture, projections_by_step
from wsteer.monitoring.projections import Projection, ends, shown_blocks
from wsteer.monitoring.trajectories import Scores

STEPS = (2, 4, 10)


def shift(step: int | None, delta: str = "a", block: int = 1, **more: object) -> Projection:
    mean = 0.5 * (step or 20) + block
    name = f"run/checkpoint-{step}" if step else "run"
    settings = {"run": "run", "step": step, "noise": 0.1 * (step or 20), **more}
    return Projection(name, "pos", delta, block, mean, mean - 1, mean + 1, 9, "prompt-last", 3.0, **settings)


def test_lines_start_at_the_base_and_the_band_is_two_deviations_of_noise() -> None:
    found = [shift(step, delta, control=delta == "b") for step in STEPS for delta in ("a", "b")]
    figure = projections_by_step([*found, shift(None)], 3, Scores("harm", ((None, 2, 0.5), (None, 10, 0.7))))
    axes = figure.axes[0]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["random (95%)", "a", "b (control)", "harm"]
    line = axes.lines[0]
    assert list(line.get_xdata()) == [0, *STEPS]
    assert list(line.get_ydata()) == [0, *(0.5 * step + 1 for step in STEPS)]
    noise, interval = (band.get_paths()[0].vertices for band in axes.collections[:2])
    assert {tuple(point) for point in noise} >= {(step, side * 0.2 * step) for step in STEPS for side in (1, -1)}
    assert {tuple(point) for point in interval} >= {(step, 0.5 * step + 1 + side) for step in STEPS for side in (1, -1)}
    assert axes.get_title() == "run, prompts of pos\nblock 1 (the paper's layer 2, hidden_states[2])"


def test_few_blocks_are_shown_and_all_are_drawn_by_block() -> None:
    found = [shift(step, block=block) for step in STEPS for block in range(28)]
    found += [shift(step, delta="b", block=40, control=True) for step in STEPS]
    assert shown_blocks(found) == [5, 15, 25]
    assert len(projections_by_step(found, 28).axes) == 3
    last = ends(found)
    assert {each.step for each in last} == {10}
    assert [len(axes.lines[0].get_xdata()) for axes in projection_picture(last).axes[:2]] == [28, 1]
