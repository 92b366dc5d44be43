"""Findings judged in a folder: rules together, what is left out and why, and slips that are no lack of results."""

from pathlib import Path

import pytest

from tests.helpers.experiments import STEPS, evaluated, experiment, monitored
from wsteer.demo.findings import judge
from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT
from wsteer.demo.standing import LEFT_OUT
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure

BASE, UP, A = Condition("base"), Condition("w", 1.0, delta="d"), Condition("a@12", 1.0, delta="a")
KEPT, RIGHT = Measure("facts", "kept"), Measure("facts", "accuracy")
MORE = {"metric": "kept", "more": "w", "than": "base"}  # holds in `results`
EQUAL = {"metric": "accuracy", "more": "w", "than": "a@12 k=1"}  # cannot be told
LESS = {"metric": "kept", "less": "w k=1", "than": "a@12 k=1"}  # does not hold


@pytest.fixture
def results(tmp_path: Path) -> Path:
    values = {KEPT: [[0] * 20, [1] * 20, [0] * 20], RIGHT: [[1, 0] * 10, [0, 1] * 10, [1, 0] * 10]}
    evaluated(tmp_path / "run", [BASE, UP, A], values)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("rules", "verdict", "why"),
    [
        ([MORE], AGREES, "kept is 100.0%"),
        ([MORE, EQUAL], CANNOT_TELL, "accuracy is"),
        ([MORE, EQUAL, LESS], DOES_NOT, "kept is 100.0%"),
        ([LESS, MORE], DOES_NOT, "kept is 100.0%"),
        ([EQUAL], CANNOT_TELL, "accuracy is"),
    ],
)
def test_a_finding_agrees_if_all_its_rules_do(results: Path, rules: list, verdict: str, why: str) -> None:
    (found,) = judge(experiment(results, {"rules": rules}), "small", results)
    assert (found.verdict, len(found.rules)) == (verdict, len(rules)) and found.why.startswith(why)
    assert len(found.why.split("; the interval")) - 1 <= [each.verdict for each in found.rules].count(verdict)


def test_a_rules_places_have_the_scales_values(results: Path) -> None:
    rule = {"metric": "kept", "more": "w", "than": "a@{block}"}
    (found,) = judge(experiment(results, {"rules": [rule]}), "small", results)
    assert (found.verdict, found.rules[0].other.given) == (AGREES, "a@12")
    assert found.rules[0].text == "kept: more under w than under a@12"


def test_cosines_are_judged_in_a_folder_of_monitor(tmp_path: Path) -> None:
    monitored(tmp_path, {("evil", "w"): 0.5, ("french", "w"): 0.0})
    rules = [{"above": ["evil ~ w"], "below": ["french ~ w"]}]
    (found,) = judge(experiment(tmp_path, {"rules": rules, "results": "monitor"}), "small", tmp_path)
    assert (found.verdict, found.rules[0].gap) == (AGREES, 0.5)


STANDINGS = {
    "Evaluate: it has not run": STEPS,
    "no step of the scale small makes eval": STEPS[:1],
    "Evaluate: there is no judge: never graded by the model under test": [
        {"does": "Evaluate", "run": "wsteer eval {model} --judge {judge} -o eval"}
    ],
    "Evaluate: it needs pos, which is left out": [
        {"does": "Answer", "run": "wsteer generate {model} evil --judge {judge} -o pos"},
        {"does": "Evaluate", "run": "wsteer eval {model} --delta w=pos@12 -o eval"},
    ],
}


@pytest.mark.parametrize("why", STANDINGS)
def test_a_finding_without_results_is_left_out_with_the_reason(tmp_path: Path, why: str) -> None:
    (found,) = judge(experiment(tmp_path, {"rules": [MORE]}, steps=STANDINGS[why]), "small", tmp_path)
    assert (found.verdict, found.why, found.rules) == (LEFT_OUT, why, ())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rules": [{**MORE, "metric": "keptt"}]}, "finding 'f': {}/eval: there is no metric 'keptt'"),
        ({"rules": [{**MORE, "than": "v k=1"}]}, "finding 'f': {}/eval has no condition or method 'v k=1'"),
        ({"rules": [{"above": ["a ~ b"], "below": ["c ~ d"]}]}, "a rule on cosines needs a folder of wsteer monitor"),
        ({"results": "monitor", "rules": [MORE]}, "a rule on a metric needs a folder of wsteer eval"),
        ({"results": "other", "rules": [MORE]}, "{}/other holds no results of wsteer eval (results.json, rows.jsonl)"),
    ],
)
def test_a_slip_in_a_rule_is_an_error_and_not_left_out(results: Path, changed: dict, told: str) -> None:
    monitored(results, {("evil", "w"): 0.5})
    (results / "other").mkdir()
    with pytest.raises(WsteerError) as error:
        judge(experiment(results, changed), "small", results)
    assert told.format(results) in str(error.value) and "own.yaml: finding 'f': " in str(error.value)
