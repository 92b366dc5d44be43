"""A rule's form is checked when the experiment's file is read; a slip is one line that says how to write it."""

from pathlib import Path

import pytest
import yaml

from wsteer.demo.experiment import read_experiment
from wsteer.demo.rules import CosineRule, MetricRule, read_rule
from wsteer.errors import WsteerError

GOOD = {"metric": "kept", "more": "w", "than": "a@12", "keep": "accuracy", "within": 0.1}


def test_both_kinds_of_rules_are_read_and_told_in_words() -> None:
    assert read_rule(GOOD) == MetricRule("kept", "w", "a@12", True, "accuracy", 0.1)
    assert read_rule(GOOD).text == (
        "kept: more under w than under a@12; of a method the condition with the highest counts, if accuracy is worse "
        "than the base's by at most 0.1"
    )
    less = read_rule({"metric": "t.kept", "less": "polite", "than": "base"})
    assert less == MetricRule("t.kept", "polite", "base", False) and less.text == (
        "t.kept: less under polite than under base"
    )
    cosines = read_rule({"above": ["evil/* ~ w"], "below": ["french ~ w", "a ~ b"]})
    assert cosines == CosineRule(("evil/* ~ w",), ("french ~ w", "a ~ b"))
    assert cosines.text == (
        "cosines: evil/* ~ w above french ~ w, a ~ b, each by more than twice the standard deviation of noise"
    )


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({**GOOD, "minimum": 3}, "a rule has no 'minimum'; write {metric: METRIC, more: X, than: Y}"),
        ({**GOOD, "less": "w"}, "has metric, than, and more or less"),
        ({"metric": "kept", "more": "w"}, "has metric, than, and more or less"),
        ({"metric": "kept", "more": "w", "than": "base", "within": 0.1}, "keep and within of a rule go together"),
        ({"metric": "kept", "more": "w", "than": "base", "keep": "accuracy"}, "keep and within of a rule go together"),
        ({**GOOD, "within": -0.1}, "a number from 0 on, not -0.1"),
        ({**GOOD, "within": True}, "a number from 0 on, not True"),
        ({**GOOD, "within": float("nan")}, "a number from 0 on, not nan"),
        ({**GOOD, "within": "0.1"}, "a number from 0 on, not '0.1'"),
        ({**GOOD, "more": True}, "more of a rule is no text: True; put it in quotes"),
        ({**GOOD, "than": ""}, "than of a rule is no text"),
        ({**GOOD, "than": "w"}, "compares 'w' with itself"),
        ({"above": ["a ~ b"]}, "has above and below, and nothing else"),
        ({"above": ["a ~ b"], "below": ["c ~ d"], "than": "x"}, "has above and below, and nothing else"),
        ({"above": "a ~ b", "below": ["c ~ d"]}, "above of a rule is a list of pairs"),
        ({"above": [], "below": ["c ~ d"]}, "above of a rule is a list of pairs"),
        ({"above": ["a b"], "below": ["c ~ d"]}, "'a b' of above is no pair; write 'ITEM ~ DELTA'"),
        ({"above": ["a ~ b"], "below": ["c ~ d ~ e"]}, "'c ~ d ~ e' of below is no pair"),
        ({"above": ["a ~ b"], "below": [3]}, "below of a rule is no text: 3"),
        ({"above": ["a ~  "], "below": ["c ~ d"]}, "is no pair"),
    ],
)
def test_a_rule_of_another_form_is_refused_with_how_to_write_it(rule: dict, told: str) -> None:
    with pytest.raises(WsteerError) as error:
        read_rule(rule)
    assert told in str(error.value) and "\n" not in str(error.value)


def written(folder: Path, **changed: object) -> Path:
    """An experiment's file with one finding, of which fields are changed."""
    finding = {
        **{"name": "f", "says": "s", "section": "4", "figures": "2", "axes": "a", "results": "eval"},
        **{"picture": "tradeoff", "rules": [GOOD], **changed},
    }
    path = folder / "own.yaml"
    steps = [{"does": "x", "run": "wsteer eval {model} -o eval"}]
    content = {"title": "t", "section": "4", "small": {"model": "m"}, "steps": steps, "findings": [finding]}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rules": [{**GOOD, "keeps": 1}]}, "finding 'f': a rule has no 'keeps'"),
        ({"images": ["https://example.org/x2.png"]}, "it must begin with https://arxiv.org/"),
        ({"images": ["https://arxiv.org.example.org/x2.png"]}, "it must begin with https://arxiv.org/"),
        ({"images": ["javascript:alert(1)"]}, "it must begin with https://arxiv.org/"),
        ({"results": "../eval"}, "results of finding 'f' is a folder in the experiment's"),
        ({"results": "/eval"}, "results of finding 'f' is a folder in the experiment's"),
        ({"picture": "../tradeoff"}, "picture the stem of a file"),
    ],
)
def test_a_findings_slip_is_refused_when_the_file_is_read(tmp_path: Path, changed: dict, told: str) -> None:
    with pytest.raises(WsteerError) as error:
        read_experiment(written(tmp_path, **changed))
    assert told in str(error.value) and str(error.value).startswith(f"{tmp_path}/own.yaml: ")


def test_a_finding_with_pictures_of_the_paper_is_read(tmp_path: Path) -> None:
    found = read_experiment(written(tmp_path, images=["https://arxiv.org/html/2511.05408v2/x2.png"]))
    assert found.findings[0].images == ("https://arxiv.org/html/2511.05408v2/x2.png",)
