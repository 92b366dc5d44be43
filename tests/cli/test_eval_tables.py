"""eval's tables in the terminal."""

import pytest

from tests.helpers.evaluations import MEASURES, conditions, rows
from wsteer.cli.eval_tables import WIDTH, change_text, retained_table, tables, value_text
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.presentation.outputs import results
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.rows import Measure, Row
from wsteer.evaluation.summary import summarise


def printed(chosen: list[Condition], found: list[Row], measures: tuple[Measure, ...]) -> list[str]:
    return list(tables(results(Findings(found, measures, chosen, summarise(found, measures, chosen), {}))))


@pytest.mark.parametrize("count", [1, 8, 24])
def test_each_task_has_a_line_for_each_condition_within_the_width(count: int) -> None:
    chosen = conditions(count)
    lines = printed(chosen, rows(chosen), MEASURES)
    assert max(map(len, lines)) <= WIDTH
    heads = [line.split()[0] for line in lines if "change  " in line or line.endswith("change")]
    assert heads == ["agreement", "text"]
    for condition in chosen:
        assert sum(line.startswith(f"{condition.label}  ") for line in lines) == 2
    (legend,) = [number for number, line in enumerate(lines) if line.startswith("change:")]
    assert lines[legend + 1 :][-1] == ""


def test_a_table_is_split_where_its_metrics_would_be_too_wide() -> None:
    chosen = conditions(1)
    found = rows(chosen)
    measures = tuple(Measure("agreement", f"accuracy_{n}") for n in range(5))
    many = [Row("agreement", each.metric, row.condition, row.id, row.value, row.why) for each in measures
            for row in found if row.metric == "accuracy"]  # fmt: skip
    lines = printed(chosen, many, measures)
    assert max(map(len, lines)) <= WIDTH
    heads = [line for line in lines if line.startswith("agreement")]
    assert len(heads) == 3
    assert [name for head in heads for name in head.split() if name.startswith("accuracy_")] == [
        each.metric for each in measures
    ]


def test_nothing_measured_has_no_table() -> None:
    found = results(Findings([], [], conditions(1), [], {}))  # of a task of lm-eval without a metric of rows
    assert [*tables(found), *retained_table(found)] == []


def test_one_condition_has_no_column_of_changes_and_no_legend() -> None:
    base = [Condition(BASE, model="m")]
    assert not any("change" in line for line in printed(base, rows(base), MEASURES))


ESTIMATE = {"value": 0.75, "low": 0.598, "high": 0.858, "numerator": 30, "denominator": 40, "unscored": {}}


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({}, "share", "75% (30/40, 60-86)"),
        ({"unscored": {"abstained": 2, "cut": 1}}, "share", "75% (30/40, 60-86; 2 abstained, 1 cut)"),
        ({"unscored": {"failed: a": 2, "failed: b": 3}}, "share", "75% (30/40, 60-86; 5 failed)"),
        ({"value": None, "unscored": {"abstained": 16}}, "share", "undefined (16 abstained)"),
        ({"value": None}, "share", "undefined (0/0)"),
        ({"value": 3.14159, "low": 3, "high": 3.5}, "mean", "3.14 (3 to 3.5)"),
        ({"value": 3.0, "low": None, "high": None}, "mean", "3"),
        ({"value": 3.0, "low": None, "high": None, "unscored": {"cut": 1}}, "perplexity", "3 (1 cut)"),
        ({"value": -0.001, "low": -0.1, "high": 0.1}, "mean", "-0.001 (-0.1 to 0.1)"),
    ],
)
def test_values_by_hand(changes: dict, kind: str, text: str) -> None:
    assert value_text({**ESTIMATE, **changes}, kind) == text


@pytest.mark.parametrize(
    ("difference", "low", "high", "significant", "text"),
    [
        (0.2, 0.08, 0.33, True, "+20 (8 to 33) *"),
        (-0.2, -0.33, -0.08, False, "-20 (-33 to -8)  "),
        (-0.001, -0.07, 0.07, False, "0 (-7 to 7)  "),
        (None, None, None, False, ""),
        (0.2, None, None, False, ""),
    ],
)
def test_changes_by_hand(
    difference: float | None, low: float | None, high: float | None, significant: bool, text: str
) -> None:
    against = {"difference": difference, "low": low, "high": high, "significant": significant}
    assert change_text({"against_base": against}, "share") == text


def test_without_a_metric_there_is_no_table_and_no_error() -> None:
    """As of a task of lm-eval whose one metric is no mean over the rows."""
    base = [Condition(BASE, model="m")]
    found = results(Findings([], (), base, [], {}))
    assert [*tables(found), *retained_table(found)] == []
