"""The pictures of an evaluation: which there are, what is in them, the same bytes each time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.text import Text

from tests.helpers.evaluations import MEASURES, conditions, parts, rows, sweep
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.pictures import figures, write_pictures
from wsteer.evaluation.presentation.sweeps import best_blocks
from wsteer.evaluation.presentation.tradeoff import axis_label, tradeoff, tradeoffs
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.summary import Estimate, summarise


def estimates(chosen: Sequence[Condition], questions: int = 24) -> list[Estimate]:
    return summarise(rows(chosen, questions), MEASURES, chosen)


def names(chosen: Sequence[Condition]) -> list[str]:
    return list(figures(estimates(chosen), MEASURES, chosen))


def texts(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_axes_come_from_roles_then_from_the_order() -> None:
    behaviour, accuracy, perplexity = MEASURES
    assert tradeoffs(MEASURES) == [(accuracy, behaviour), (perplexity, behaviour)]
    plain = [Measure("one", "a"), Measure("one", "b"), Measure("two", "c"), Measure("two", "d")]
    assert tradeoffs(plain) == [(plain[2], plain[0])]
    assert tradeoffs(plain[:2]) == [(plain[1], plain[0])]
    assert tradeoffs(plain[:1]) == tradeoffs([]) == []
    assert tradeoffs([plain[0], replace(plain[2], role="capability")]) == [
        (replace(plain[2], role="capability"), plain[0])
    ]


def test_a_tasks_other_behaviours_are_drawn_too_but_not_those_over_the_bases_rows() -> None:
    behaviour, accuracy, perplexity = MEASURES
    another = replace(behaviour, metric="another")
    fixed, elsewhere = replace(another, metric="another_of_base", among="x"), replace(another, task="elsewhere")
    given = [behaviour, another, fixed, accuracy, perplexity, elsewhere]
    assert tradeoffs(given) == [(accuracy, behaviour), (perplexity, behaviour), (accuracy, another)]


@pytest.mark.slow
def test_a_picture_of_another_behaviour_is_named_by_it() -> None:
    chosen, another = conditions(1), replace(MEASURES[0], metric="another")
    once = estimates(chosen)
    again = [replace(each, metric="another") for each in once if each.task == "agreement"]
    found = figures([*once, *again], [MEASURES[0], another, *MEASURES[1:]], chosen)
    assert list(found)[:3] == ["tradeoff", "tradeoff-text-perplexity", "tradeoff-agreement-another"]


@pytest.mark.slow
def test_each_kind_of_conditions_gets_its_picture() -> None:
    usual = ["tradeoff", "tradeoff-text-perplexity", "curves-agreement", "curves-text"]
    assert names(conditions(1)) == usual
    assert names(sweep(8)) == ["tradeoff", "tradeoff-text-perplexity", "layers"]
    assert names(parts(["layer 0", "layer 1"])) == [*usual, "attribution"]
    assert names(conditions(1)[:1]) == []


@pytest.mark.slow
def test_equal_estimates_give_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pictures = write_pictures(tmp_path / name, estimates(conditions(3)), MEASURES[:2], conditions(3))
        assert next(iter(pictures.values())) == tmp_path / name / "tradeoff.svg"
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, ends", [(1, ["k=1"]), (8, ["k=-2", "k=2"]), (25, ["k=-2", "k=2", "step 50", "step 450", "system"])]
)
def test_the_base_and_the_ends_of_lines_are_always_named(count: int, ends: list[str]) -> None:
    chosen = conditions(count)
    found = {(each.task, each.metric, each.condition): each for each in estimates(chosen)}
    figure = tradeoff(found, chosen, MEASURES[1], MEASURES[0])
    assert figure is not None
    shown = [text.get_text() for text in figure.findobj(Text)]
    assert {"base", "better", *ends} <= set(shown)
    assert len([text for text in shown if text.startswith(("k=", "step "))]) > count / 2


@pytest.mark.slow
def test_the_sweep_names_the_best_block(tmp_path: Path) -> None:
    chosen = sweep(16)
    found = {(each.task, each.metric, each.condition): each for each in estimates(chosen, 200)}
    (best,) = best_blocks(found, chosen, MEASURES)
    assert 5 <= best.block <= 9  # made strongest at 7
    most = max(chosen[1:], key=lambda each: abs(found["agreement", "agreement", each.name].against_base.difference))
    assert best.block == most.layers[0]
    assert best.text.startswith(f"a k=-1: agreement agreement changes most at block {best.block}, the paper's layer")
    write_pictures(tmp_path, list(found.values()), MEASURES, chosen)
    assert f">best block of agreement: {best.block}<" in texts(tmp_path / "layers.svg")


def test_the_best_block_is_where_most_changes_also_to_the_worse() -> None:
    """The metric is better where it is lower, and k = 1 makes it higher."""
    chosen = sweep(12, k=1.0)
    found = {(each.task, each.metric, each.condition): each for each in estimates(chosen, 60)}
    (best,) = best_blocks(found, chosen, MEASURES)
    assert 5 <= best.block <= 9 and best.difference > 0.2


@pytest.mark.slow
def test_an_attribution_has_bars_for_each_part_and_the_whole(tmp_path: Path) -> None:
    chosen = parts(["layer 0", "mlp.down_proj"])
    write_pictures(tmp_path, estimates(chosen), MEASURES, chosen)
    drawn = texts(tmp_path / "attribution.svg")
    for text in ("layer 0", "mlp.down_proj", "this part alone", "all but this part", "the whole change"):
        assert f">{text}<" in drawn, text


def test_an_axis_tells_what_its_points_hide() -> None:
    chosen = conditions(1)
    found = {(each.task, each.metric, each.condition): each for each in estimates(chosen)}
    most = max(sum(found["agreement", "accuracy", each.name].unscored.values()) for each in chosen)
    assert most > 0
    shown = axis_label(MEASURES[1], found, chosen)
    assert shown == f"accuracy\nagreement; higher is better; up to {most} of 24 unscored"


@pytest.mark.slow
def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    chosen = [conditions(1)[0], Condition("<b>$x_1$\x1b[2J", 1.0, "m", "w")]
    measures = [replace(each, task="../../etc/passwd") for each in MEASURES[:2]]
    made = [replace(row, task="../../etc/passwd") for row in rows(chosen, 6) if row.task == "agreement"]
    write_pictures(tmp_path, summarise(made, measures, chosen), measures, chosen)
    assert {path.stem for path in tmp_path.iterdir()} == {"tradeoff", "curves-_.._etc_passwd"}
    assert "&lt;b&gt;$x_1$\\x1b[2J" in texts(tmp_path / "tradeoff.svg")
