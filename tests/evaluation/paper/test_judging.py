"""Who grades: the rule first, judges where it abstains; votes of several judges; what has no verdict."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model
from inspect_ai.model._model import init_model_roles

from wsteer.errors import WsteerError
from wsteer.evaluation.inspection import registry  # noqa: F401
from wsteer.evaluation.inspection.logs import FILTERED, UNPARSED, WHY
from wsteer.evaluation.paper.judging import NO_MAJORITY, Verdict, check_graders, graded, score_of
from wsteer.evaluation.rows import ABSTAINED, OUTSIDE


def judge(*texts: str, stop: str = "stop") -> Model:
    """inspect_ai's own mock of a model, which says these texts."""
    outputs = [ModelOutput.from_content("mock", text, stop_reason=stop) for text in texts]
    for output in outputs:
        output.usage = ModelUsage()  # without it inspect_ai counts tokens by a table from the internet
    return get_model("mockllm/model", custom_outputs=outputs, memoize=False)


@contextmanager
def panel(*models: Model) -> Iterator[None]:
    init_model_roles({"grader": list(models)} if models else {})
    try:
        yield
    finally:
        init_model_roles({})


def parse(text: str) -> str | float | None:
    found = re.findall(r"GRADE: (\w+)", text)
    return (float(found[-1]) if found[-1].isdigit() else found[-1]) if found else None


def ask(rule: str | None = None, grade: str = "both") -> Verdict:
    return asyncio.run(graded(rule, "Right?", parse, grade))


def test_the_rule_decides_and_judges_are_asked_where_it_abstains() -> None:
    with panel(judge("GRADE: NO", "GRADE: NO")):
        assert ask("YES") == Verdict("YES")
        assert ask(None) == Verdict("NO", "", "judge", "GRADE: NO")
        assert ask("YES", "judge").value == "NO"
        assert ask(None, "rule") == Verdict(None, ABSTAINED)
    assert ask(None) == Verdict(None, ABSTAINED)
    with pytest.raises(WsteerError, match="name one with --judge"):
        ask("YES", "judge")
    with pytest.raises(WsteerError, match="-T grade=none: give one of both, rule, judge"):
        check_graders("none")


def test_the_model_that_stands_for_no_judge_is_never_asked() -> None:
    with panel(get_model("wsteer-no-judge/none", memoize=False)):
        assert ask(None) == Verdict(None, ABSTAINED)


@pytest.mark.parametrize(
    ("said", "value", "why"),
    [
        (["GRADE: YES", "GRADE: YES", "GRADE: NO"], "YES", ""),
        (["GRADE: YES", "GRADE: NO"], None, NO_MAJORITY),
        (["GRADE: YES", "hm", "GRADE: NO"], None, NO_MAJORITY),
        (["GRADE: YES", "hm", "GRADE: YES"], "YES", ""),
        (["GRADE: YES", "hm", "hm"], None, UNPARSED),
        (["GRADE: 10", "GRADE: 40", "GRADE: 40"], 30.0, ""),
        (["GRADE: 10", "hm"], None, UNPARSED),
        (["hm"], None, UNPARSED),
        (["GRADE: NO. No: GRADE: YES"], "YES", ""),
    ],
)
def test_the_votes_of_a_panel(said: list[str], value: object, why: str) -> None:
    with panel(*(judge(text) for text in said)):
        found = ask()
    assert (found.value, found.why, found.by, found.said) == (value, why, "judge", "\n\n".join(said))


def test_an_answer_that_the_endpoint_withheld_is_no_vote() -> None:
    with panel(judge("GRADE: YES", stop="content_filter")):
        assert ask() == Verdict(None, FILTERED, "judge", "GRADE: YES")


def test_a_score_has_values_and_reasons() -> None:
    found = score_of({"right": True, "share": 0.25, "kept": OUTSIDE}, "as told")
    assert found.value["right"] == 1.0 and found.value["share"] == 0.25
    assert found.value["kept"] != found.value["kept"] and found.metadata == {WHY: {"kept": OUTSIDE}}
