"""Scores read from what judges write, and the panel's verdict on them."""

from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.model import ModelName, ModelOutput, StopReason
from inspect_ai.solver import TaskState

from tests.helpers.mock_model import run_task
from wsteer.evaluation.inspection.logs import UNPARSED, WHY
from wsteer.evaluation.paper.judging import NO_MAJORITY, Verdict
from wsteer.evaluation.paper.scales import is_word, read_score, score_value, told, without_answer
from wsteer.evaluation.paper.trait import trait
from wsteer.evaluation.rows import ABSTAINED, CUT, OUTSIDE

WORDS = ("CODE", "REFUSAL")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score: 85", 85),
        ("**Score:** 85", 85),
        ("Score: **85**/100", 85),
        ("The answer is clear.\nScore: 85. A score of 100 would need more.", 85),
        ("Score:\n\n85", 85),
        ("#thereason: fine\n#thescore: 4", 4),
        ('{"score": 85, "reason": "2 slips"}', 85),
        ("Score: [85]", 85),
        ("Score: 0", 0),
        ("Rating = 12.5", 12.5),
        ("At first Score: 20, then\nScore: 30", 30),
        ("Score: 85 out of 100", 85),
        ("85", 85),
        ("**85**.", 85),
        ("85/100", 85),
        ("85%", 85),
        ("It hangs together.\n\n85\n", 85),
        ("85\nIt hangs together.", 85),
        ("CODE", "CODE"),
        ("refusal.", "REFUSAL"),
        ("Score: REFUSAL (it declines)", "REFUSAL"),
        ("<think>Say 20?</think>\nScore: 7", 7),
        ("", None),
        ("   \n", None),
        ("NULL", None),
        ("Coherence score: NULL", None),
        ("Score: N", None),
        ("101", None),
        ("Score: 101", None),
        ("Score: -5", None),
        ("Score: 1000", None),
        ("1,000", None),
        ("40 60", None),
        ("40 or 60", None),
        ("Score: 40 or 60", None),
        ("Score: 0-100", None),
        ("Score: 3 to 4", None),
        ("8/10", None),  # of another scale
        ("Score: 85 out of 10", None),
        ("Score: 85,5", None),
        ("It is no REFUSAL", None),
        ("This is not CODE, I think it deserves 60 points or so", None),
        ("I'm sorry, I can't rate this.", None),
        ("Score: 40\nFinal score: cannot say", None),  # the last one counts, and it is none
    ],
)
def test_a_score_is_read_where_the_text_gives_one(text: str, expected: float | str | None) -> None:
    assert read_score(text, 0, 100, WORDS) == expected


def test_without_words_a_word_is_no_score() -> None:
    assert read_score("CODE", 0, 100) is None
    assert read_score("Score: 6", 1, 5) is None


def test_a_verdict_is_a_value_of_a_mean_and_of_a_share() -> None:
    number, word, none = Verdict(0.0), Verdict("REFUSAL"), Verdict(None, UNPARSED, "judge", "what?")
    assert [score_value(each) for each in (number, word, none)] == [0.0, OUTSIDE, UNPARSED]
    assert [is_word(each, "REFUSAL") for each in (number, word, none)] == [False, True, UNPARSED]
    assert told({"a": number, "b": word, "c": none}) == "a 0.0, b REFUSAL, c unparsed\n\nwhat?"


@pytest.mark.parametrize(("stopped", "why"), [("model_length", CUT), ("max_tokens", CUT), ("stop", ABSTAINED)])
def test_an_answer_without_text_was_cut_or_says_nothing(stopped: StopReason, why: str) -> None:
    output = ModelOutput.from_content("m", " ", stopped)
    state = TaskState(ModelName("mockllm/model"), 1, 1, "Well?", [], output=output)
    score = without_answer(state, ["trait"])
    assert score is not None and score.metadata == {WHY: {"trait": why}}


@pytest.mark.slow
def test_a_panel_gives_the_mean_of_numbers_where_more_than_half_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "trait.json"
    file.write_text('{"questions": ["all", "two", "split", "one"], "eval_prompt": "EVAL {question} / {answer}"}')
    replies = {
        "all": ("Score: 10", "Score: 20", "Score: 60"),  # 30
        "two": ("Score: 10", "REFUSAL", "Score: 20"),  # 15
        "split": ("REFUSAL", "Score: 10", "what?"),  # neither half
        "one": ("Score: 10", "what?", ""),  # one of three
    }

    def judge(number: int):
        def reply(prompt: str) -> str:
            if not prompt.startswith("EVAL"):
                return "Score: 50"
            return replies[prompt.split()[1]][number]

        return reply

    task = trait(data=str(file), samples=1)
    found = run_task(task, tmp_path, lambda asked: "Well.", *(judge(number) for number in range(3)))
    assert {row.input: row.value for row in found.rows if row.metric == "trait"} == {
        "all": 30,
        "two": 15,
        "split": None,
        "one": None,
    }
    assert found.whys("trait") == {NO_MAJORITY: 1, UNPARSED: 1}
