"""Answers from elsewhere, rated by judges on a server on loopback."""

from pathlib import Path

import pytest

from tests.helpers.judge import Reply, judge
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.logs import FILTERED, UNPARSED
from wsteer.evaluation.paper.ratings import rate
from wsteer.evaluation.paper.scales import COHERENCE
from wsteer.evaluation.rows import OUTSIDE

PROMPT = "Rate the trait of {answer} to {question}."


def said(prompt: str, number: int) -> Reply:
    """What the judge says: of the trait what the answer holds after `t=`, of coherence what it holds after `c=`."""
    mark = "c=" if prompt.startswith(COHERENCE[:40]) else "t="
    text = prompt.partition(mark)[2].split()[0].rstrip(".")
    return (200, "", "content_filter") if text == "FILTER" else (200, text, "stop")


@pytest.mark.slow
def test_each_answer_is_rated_by_each_prompt_and_a_run_whose_judge_died_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = True

    def dies(prompt: str, number: int) -> Reply:
        return (401, "no key", "stop") if dead and "Who" in prompt else said(prompt, number)

    answers = {"a": ("Why?", "t=85 c=90"), "b": ("How {x}?", "t=REFUSAL c=12"), "c": ("Who?", "t=so c=FILTER")}
    with judge(monkeypatch, dies) as served:
        with pytest.raises(WsteerError, match=f"the judge {served.name} does not answer: .*no key"):
            rate(answers, PROMPT, [served.name], tmp_path)
        dead = False
        found = rate(answers, PROMPT, [served.name], tmp_path)
    assert found == {
        ("a", "trait"): (85.0, ""),
        ("a", "coherence"): (90.0, ""),
        ("b", "trait"): (None, OUTSIDE),
        ("b", "coherence"): (12.0, ""),
        ("c", "trait"): (None, UNPARSED),
        ("c", "coherence"): (None, FILTERED),
    }
    assert "Rate the trait of t=REFUSAL c=12 to How {x}?." in served.asked
