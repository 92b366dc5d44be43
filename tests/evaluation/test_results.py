"""What an evaluation gives to Python and to --json."""

import json

import pytest

from tests.helpers.evaluations import MEASURES, conditions, rows, sweep
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.results import EvalReport
from wsteer.evaluation.summary import summarise


def report(chosen: list[Condition]) -> EvalReport:
    found = rows(chosen)
    estimates = summarise(found, MEASURES, chosen)
    return EvalReport("out", Findings(found, MEASURES, chosen, estimates, {}, notes=("a note",)), ("lost",), ("fell",))


def test_an_estimate_is_found_by_metric_and_the_label_of_its_condition() -> None:
    found = report(conditions(8))
    names = {each.label: each.name for each in found.findings.conditions}
    for metric, label in (("accuracy", "w k=-1.5"), ("agreement.accuracy", "base"), ("perplexity", "w k=2")):
        estimate = found.estimate(metric, label)
        assert (estimate.metric, estimate.condition) == (metric.split(".")[-1], names[label])
    assert found.estimate("accuracy") == found.estimate("accuracy", "base")
    with pytest.raises(WsteerError, match=r"no condition 'w k=7'; there are base, w k=-2, "):
        found.estimate("accuracy", "w k=7")
    with pytest.raises(WsteerError, match=r"no metric 'acuracy'.*did you mean accuracy"):
        found.estimate("acuracy")


def test_json_has_what_results_json_has_and_what_fails() -> None:
    found = report(conditions(1)).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)).keys() == found.keys()
    assert (found["output"], found["unscored"], found["failures"]) == ("out", ["lost"], ["fell"])
    assert found["notes"] == ["a note"]
    assert [each["label"] for each in found["conditions"]] == ["base", "w k=1"]


def test_a_layer_sweep_tells_its_best_block_beside_the_notes() -> None:
    told = report(sweep(12)).told
    assert told[-1] == "a note"
    assert told[0].startswith("a k=-1: agreement agreement changes most at block ")
