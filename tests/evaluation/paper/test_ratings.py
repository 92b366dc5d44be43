"""Answers rated by judges from 0 to 100, on a server on loopback."""

from pathlib import Path

import pytest

from tests.helpers.judge import Reply, judge
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.inspection import check_judges
from wsteer.evaluation.inspection.logs import FILTERED, UNPARSED
from wsteer.evaluation.paper.judging import NO_MAJORITY
from wsteer.evaluation.paper.ratings import COHERENCE, REFUSAL, REFUSED, Given, Rating, rate, rating

PROMPTS = {"trait": "Rate the trait of {answer} to {question}.", "coherence": COHERENCE}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("85", 85.0),
        ("0", 0.0),
        ("100", 100.0),
        ("7.5", 7.5),
        ("**85**", 85.0),
        ("Score: 85", 85.0),
        ("85/100", 85.0),
        ("85 out of 100.", 85.0),
        ("It flatters at 3 places.\n\nScore: 70", 70.0),
        ("First I thought 20.\n60", 60.0),
        ("REFUSAL", REFUSAL),
        ("It declines: REFUSAL.", REFUSAL),
        ("101", None),
        ("-5", None),
        ("1,000", None),
        ("8 or 9", None),
        ("I cannot rate this.", None),
        ("NULL", None),
        ("Coherence score: NULL", None),
        ("REFUSALS", None),
        ("85\nI hope that this helps.", None),
        ("", None),
    ],
)
def test_a_rating_is_the_number_of_the_last_line_or_a_refusal(text: str, value: float | str | None) -> None:
    assert rating(text) == value


def said(prompt: str, number: int) -> Reply:
    """What the judge says: of the trait what the answer holds after `t=`, of coherence what it holds after `c=`."""
    mark = "c=" if prompt.startswith(COHERENCE[:40]) else "t="
    text = prompt.partition(mark)[2].split()[0].rstrip(".")
    return (200, "", "content_filter") if text == "FILTER" else (200, text, "stop")


@pytest.mark.slow
def test_each_answer_is_rated_by_each_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        Given("a", "Why?", "t=85 c=90"),
        Given("b", "How {x}?", "t=REFUSAL c=12"),
        Given("c", "Who?", "t=so c=FILTER"),
    ]
    with judge(monkeypatch, said) as served:
        found = rate(answers, PROMPTS, [served.name], tmp_path)
    assert found == {
        ("a", "trait"): Rating(85.0),
        ("a", "coherence"): Rating(90.0),
        ("b", "trait"): Rating(None, REFUSED),
        ("b", "coherence"): Rating(12.0),
        ("c", "trait"): Rating(None, UNPARSED),
        ("c", "coherence"): Rating(None, FILTERED),
    }
    assert "Rate the trait of t=REFUSAL c=12 to How {x}?." in served.asked
    assert len(served.asked) == 6


@pytest.mark.slow
def test_a_panels_rating_is_its_mean_and_needs_a_majority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(prompt: str, number: int) -> Reply:
        return 200, "REFUSAL" if "refused" in prompt else "nonsense" if "strange" in prompt else "20", "stop"

    answers = [
        Given("a", "Why?", "t=80 c=80"),
        Given("b", "Why?", "refused t=80 c=80"),
        Given("c", "?", "strange t=4 c=4"),
    ]
    with judge(monkeypatch, said) as one, judge(monkeypatch, other, "second") as two:
        found = rate(answers, {"trait": PROMPTS["trait"]}, [one.name, two.name], tmp_path)
    assert found["a", "trait"] == Rating(50.0)
    assert found["b", "trait"] == Rating(None, NO_MAJORITY)
    assert found["c", "trait"] == Rating(None, UNPARSED)


@pytest.mark.slow
def test_a_run_whose_judge_died_goes_on_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = True

    def dies(prompt: str, number: int) -> Reply:
        return (401, "no key", "stop") if dead and "Who" in prompt else said(prompt, number)

    answers = [Given("a", "Why?", "t=85 c=90"), Given("b", "Who?", "t=5 c=9")]
    with judge(monkeypatch, dies) as served:
        with pytest.raises(WsteerError, match=f"the judge {served.name} does not answer: .*no key"):
            rate(answers, PROMPTS, [served.name], tmp_path)
        before, dead = len(served.asked), False
        found = rate(answers, PROMPTS, [served.name], tmp_path)
        assert len(served.asked) - before <= 4
    assert [found[name, "trait"].value for name in "ab"] == [85.0, 5.0]


def test_the_model_under_test_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match="may not grade itself"):
        check_judges([f"hf/{tmp_path}"], tmp_path)
