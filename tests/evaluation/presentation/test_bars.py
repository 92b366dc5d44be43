"""Stacked bars: their parts are all rows, and how they look."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.helpers.evaluations import conditions
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.bars import UNGRADED, bars, bars_of, stacked
from wsteer.evaluation.presentation.pictures import figures, write_pictures
from wsteer.evaluation.rows import Measure, Row
from wsteer.evaluation.summary import Estimate, summarise

OUTCOMES = ("evil_consistent", "evil_inconsistent", "ethical_consistent", "ethical_inconsistent", "invalid")
PARTS = [Measure("cot", name, better="higher" if "ethical" in name else "lower", bar="outcome") for name in OUTCOMES]
SCORES = [Measure("harm", f"score_{number}", bar="score") for number in range(1, 6)]


def estimates(
    chosen: Sequence[Condition], parts: Sequence[Measure], ungraded: int = 0, rows: int = 10
) -> list[Estimate]:
    """Rows dealt out to the parts in turn; the first ones are ungraded."""
    made = []
    for condition in chosen:
        for row in range(rows):
            for number, part in enumerate(parts):
                value = None if row < ungraded else float(row % len(parts) == number)
                why = "" if value is not None else "unparsed"
                made.append(Row(part.task, part.metric, condition.name, f"q{row}", value, why))
    return summarise(made, parts, chosen)


def found(made: Sequence[Estimate]) -> Mapping[tuple[str, str, str], Estimate]:
    return {(each.task, each.metric, each.condition): each for each in made}


@pytest.mark.parametrize("ungraded, counts", [(0, (2, 2, 2, 2, 2)), (3, (1, 1, 1, 2, 2)), (10, (0, 0, 0, 0, 0))])
def test_the_parts_and_the_ungraded_are_all_rows(ungraded: int, counts: tuple[int, ...]) -> None:
    chosen = conditions(1)
    made = bars_of(found(estimates(chosen, PARTS, ungraded)), chosen, PARTS)
    assert [(bar.label, bar.counts, bar.ungraded, bar.rows) for bar in made] == [
        ("base", counts, ungraded, 10),
        ("w k=1", counts, ungraded, 10),
    ]


def test_a_condition_without_all_parts_has_no_bar() -> None:
    chosen = conditions(1)
    some = [each for each in estimates(chosen, PARTS) if (each.metric, each.condition) != ("invalid", chosen[1].name)]
    assert [bar.label for bar in bars_of(found(some), chosen, PARTS)] == ["base"]
    assert bars_of({}, chosen, PARTS) == [] and bars({}, chosen, PARTS) is None


def test_parts_that_are_more_than_all_rows_are_no_bar() -> None:
    chosen = conditions(1)
    rows = [Row(each.task, each.metric, chosen[0].name, "q", 1.0) for each in PARTS[:2]]
    assert bars(found(summarise(rows, PARTS[:2], chosen)), chosen, PARTS[:2]) is None


def test_metrics_with_one_bar_are_its_parts() -> None:
    alone = Measure("harm", "refused")
    assert stacked([*PARTS, alone, *SCORES]) == {("cot", "outcome"): PARTS, ("harm", "score"): SCORES}


@pytest.mark.slow
@pytest.mark.parametrize("ungraded", [0, 3])
def test_bars_end_at_all_rows_and_doubtful_parts_are_hatched(ungraded: int) -> None:
    chosen = conditions(8)
    figure = bars(found(estimates(chosen, PARTS, ungraded)), chosen, PARTS)
    assert figure is not None
    (axes,) = figure.axes
    names = [*OUTCOMES, UNGRADED] if ungraded else list(OUTCOMES)
    looks = {}
    assert [container.get_label() for container in axes.containers] == names
    for name, container in zip(names, axes.containers, strict=True):
        assert len(container) == len(chosen)
        looks[name] = container[0].get_facecolor(), container[0].get_hatch()
    for number in range(len(chosen)):
        widths = [container[number].get_width() for container in axes.containers]
        assert sum(widths) == pytest.approx(1)
        last = axes.containers[-1][number]
        assert last.get_x() + last.get_width() == pytest.approx(1)
    for kind in ("evil", "ethical"):
        (colour, plain), (same, hatch) = looks[f"{kind}_consistent"], looks[f"{kind}_inconsistent"]
        assert colour == same and not plain and hatch
    assert len({colour for colour, _ in looks.values()}) == len(names) - 2
    assert [text.get_text() for text in axes.get_yticklabels()] == [each.label for each in chosen]


def test_numbered_parts_have_shades_in_their_order() -> None:
    chosen = conditions(1)
    figure = bars(found(estimates(chosen, SCORES)), chosen, SCORES)
    assert figure is not None
    shades = [sum(container[0].get_facecolor()[:3]) for container in figure.axes[0].containers]
    assert shades == sorted(shades) and len(set(shades)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 24])
def test_they_are_among_the_pictures(tmp_path: Path, count: int) -> None:
    chosen = conditions(count)
    made = [*estimates(chosen, PARTS), *estimates(chosen, SCORES)]
    drawn = figures(made, [*PARTS, *SCORES], chosen)
    assert drawn["bars-cot-outcome"][0] == "cot: outcome of all rows" and "bars-harm-score" in drawn
    written = write_pictures(tmp_path, made[: len(made) // 2], PARTS, chosen)
    text = written["cot: outcome of all rows"].read_text(encoding="utf-8")
    for name in (*OUTCOMES, *(each.label for each in chosen)):
        assert f">{name}<" in text, name
    assert (tmp_path / "bars-cot-outcome.png").is_file()
