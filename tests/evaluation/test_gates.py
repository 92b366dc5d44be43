"""Gates: what breaks one, and which conditions they hold for."""

import pytest

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.gates import Gates
from wsteer.evaluation.rows import OUTSIDE, Measure, Row
from wsteer.evaluation.summary import summarise

BASE, UP = Condition("base"), Condition("w", 1.0, delta="d")
CONTROL = Condition("w random", 1.0, delta="r", control="random")
PART = Condition("w", 1.0, delta="p", part="drop layer 1")
MEASURES = [Measure("facts", "agreement"), Measure("facts", "accuracy")]


def rows(condition: Condition, right: int, metric: str = "agreement") -> list[Row]:
    return [Row("facts", metric, condition.name, f"{i}", float(i < right)) for i in range(10)]


def failures(gates: Gates, found: list[Row], conditions: list[Condition]) -> list[str]:
    return gates.failures(summarise(found, MEASURES, conditions), MEASURES, conditions)


def test_a_value_beyond_its_bound_names_the_condition() -> None:
    found = rows(BASE, 9) + rows(UP, 3) + rows(CONTROL, 10) + rows(PART, 10)
    everything = [BASE, UP, CONTROL, PART]
    assert failures(Gates(above={"agreement": 0.2}), found, everything) == ["w k=1: agreement is 0.3, above 0.2"]
    assert failures(Gates(below={"facts.agreement": 0.5}), found, everything) == [
        "w k=1: facts.agreement is 0.3, below 0.5"
    ]
    assert failures(Gates(above={"agreement": 0.3}, below={"agreement": 0.3}), found, everything) == []


def test_gates_hold_for_the_base_where_nothing_is_steered() -> None:
    found = rows(BASE, 9) + rows(CONTROL, 10)
    assert failures(Gates(above={"agreement": 0.2}), found, [BASE, CONTROL]) == ["base: agreement is 0.9, above 0.2"]


def test_what_is_undefined_or_was_not_measured_breaks_a_gate() -> None:
    outside = [Row("facts", "agreement", UP.name, "0", None, OUTSIDE)]
    expected = ["w k=1: agreement is undefined; it must not be below 0"]
    assert failures(Gates(below={"agreement": 0}), outside, [BASE, UP]) == expected
    assert failures(Gates(below={"agreement": 0}), rows(BASE, 1), [BASE, UP]) == expected


def test_a_gate_on_an_unknown_metric_is_refused() -> None:
    with pytest.raises(WsteerError, match=r"no metric 'agrement'.*did you mean agreement"):
        Gates(above={"agrement": 1}).check_names(MEASURES)
    Gates(above={"agreement": 1}, below={"facts.accuracy": 0}).check_names(MEASURES)
