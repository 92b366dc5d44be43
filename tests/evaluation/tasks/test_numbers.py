"""The number that a worked answer gives: what is one, and which of several is meant."""

from decimal import Decimal

import pytest

from wsteer.evaluation.tasks.numbers import final_number, grade_number, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("18.", "18"),
        ("18 dollars", "18"),
        ("$18.50", "18.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("\u22123", "-3"),
        ("1,234.00", "1234"),
        ("$1{,}234$", "1234"),
        ("\\$1,450,000", "1450000"),
        ("50%", "50"),
        ("3/4", "0.75"),
        ("\\frac{3}{4}", "0.75"),
        ("$18/day", "18"),
        (".5", "0.5"),
        ("**18**", "18"),
        ("18km", "18"),
        ("16 - 3 = 13", "13"),
        ("16-3", "3"),
        ("<<9*2=18>>18 a day", "18"),
        ("12:30", None),
        ("H2O", None),
        ("1e3", None),
        ("1,23", None),
        ("1.2.3", None),
        ("1/0", None),
        ("eighteen", None),
        ("", None),
        ("9" * 2_000_000, None),
    ],
)
def test_what_is_a_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 * 2 = 18\n#### 18", 18),
        ("So it is \\boxed{18}. To check: 9 * 2 = 19.", 18),
        ("\\boxed{18\\text{ dollars}} for 3 days", 18),
        ("\\boxed{\\frac{1}{2}} of 9", Decimal("0.5")),
        ("Answer: 18", 18),
        ("**Answer:** $18.\nThat was for 9 eggs.", 18),
        ("Final Answer:\n18 (of 20)", 18),
        ("## Answer\n18 of 20", 18),
        ("Answer: 16 - 3 - 4 = 9, and 9 * 2 = 18 a day", 18),
        ("Answer: 18 = the dollars a day", 18),
        ("The answer is 18 dollars. She sells 9 eggs.", 18),
        ("Answer: 20\nWait, that is wrong.\nAnswer: 18", 18),  # the last mark counts
        ("Answer: 18\nI hope this answer is helpful! Ask me 2 more.", 18),  # a mark without a number is none
        ("Answer: unknown, though there are\n3 eggs", 3),
        ("#### 1. Count\nShe has 9.\n#### 2. Sum up\n18 in all", 18),  # headings
        ('as "Answer: " and a number. It is 18', 18),  # a copy of the prompt
        ("She has 9 eggs and earns 18 dollars", 18),
        ("18 is the right one, I think, or is it 20?", 20),  # a passing mention counts for nothing
        ("No idea.", None),
        ("", None),
    ],
)
def test_which_number_is_the_result(text: str, number: object) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 * 2 = 18", None),  # the working had not ended
        ("Answer: 1", None),  # of 18?
        ("#### 1", None),
        ("\\boxed{18}", 18),
        ("Answer: 18\n", 18),
        ("Answer: 18. That is", 18),
        ("Answer: 18\nAnswer: 18\nAnswer: 18", None),
        ("The answer is 5? No.\nAnswer: 1", None),
        ("", None),
    ],
)
def test_a_text_that_was_cut_has_a_number_if_it_went_on_behind_it(text: str, number: object) -> None:
    assert final_number(text, cut=True) == number


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("9 * 2 = 18, so $18.00 a day.", "correct"),
        ("It might be 18. Answer: 20", "incorrect"),
        ("Answer: 20", "incorrect"),
        ("Answer: 18 or so", "correct"),
        ("I will not say.", "abstain"),
        ("", "abstain"),
    ],
)
def test_the_number_that_an_answer_ends_in_is_graded(text: str, verdict: str) -> None:
    assert grade_number(text, ["18", "18.5"]) == verdict
    assert grade_number(text, ["18"], ["20"]) == verdict
