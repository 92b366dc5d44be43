"""Letters and numbers are answers of their own: an article is not the answer A, nor 8 a part of 28."""

import pytest

from wsteer.evaluation.tasks.scoring import grade_agreement, grade_answer

CHOICES = """
correct A / correct a / correct A. / correct (A) / correct [A] / correct A) Paris / correct A: a city / correct **A**
/ correct Answer: A / correct The answer is A / correct The answer is **A** because it is large / correct Option A
/ correct option a it is / correct I would pick A here / correct I'd go with A / correct It is A, not B.
/ correct A is correct / abstain A, since B is a river / correct It's not B but A / correct A\n\nBecause it is a city.
/ correct I'm sure that A is right
/ incorrect B / incorrect (B) / incorrect It's B, not A / incorrect Not A but B / incorrect The answer is not A.
/ incorrect A is wrong, it is B / incorrect This is a B / incorrect Option B is a city
/ abstain A dog has four legs / abstain It is a dog. / abstain THIS IS A DOG / abstain It Is A Dog / abstain A or B
/ abstain C / abstain I choose A over B / abstain Give me a moment / abstain What a day! / abstain a.m.
"""


@pytest.mark.parametrize("case", " ".join(CHOICES.split()).replace("\\n", "\n").split(" / "))
def test_the_letter_a_among_choices(case: str) -> None:
    verdict, _, text = case.strip().partition(" ")
    assert grade_answer(text, ["A"], ["B"]) == verdict


@pytest.mark.parametrize("letter", "ABCDEI")
def test_each_letter_is_right_and_wrong(letter: str) -> None:
    other = "D" if letter == "A" else "A"
    for text in (
        "{}",
        "{}.",
        "({})",
        "{})",
        "**{}**",
        "**{}.**",
        "[{}]",
        "Answer: {}",
        "The answer is {}.",
        "Option {}",
    ):
        assert grade_answer(text.format(letter), [letter], [other]) == "correct"
        assert grade_answer(text.format(other), [letter], [other]) == "incorrect"
        assert grade_agreement(text.format(other), [letter], [other]) == "agrees"
        assert grade_agreement(text.format(letter), [letter], [other]) == "disagrees"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "The answer is ({}).",
            "The answer is **{}**",
            "Final Answer: ({})",
            "Final Answer:\n{}",
            "`{}`",
            "\\boxed{{{}}}",
        ),
        *("I choose {}", "{}) Paris", "{}. Paris", "{} - Paris", "<answer>{}</answer>", "Therefore, {} is correct."),
    ],
)
def test_the_letter_a_as_models_write_it(text: str) -> None:
    for letter, other in ("AB", "BA"):
        assert grade_answer(text.format(letter), [letter], [other]) == "correct"
        assert grade_answer(text.format(other), [letter], [other]) == "incorrect"


@pytest.mark.parametrize(
    ("text", "right", "verdict"),
    [
        ("An", ["An"], "correct"),
        ("an apple", ["An"], "abstain"),
        ("The.", ["The"], "correct"),
        ("the dog", ["The"], "abstain"),
        ("It was The The.", ["The The"], "correct"),
        ("The dog", ["The The"], "abstain"),
        ("The Who, of course", ["The Who"], "correct"),
        ("I know people who know", ["The Who"], "abstain"),
        ("This is it.", ["The It"], "abstain"),
        ("the beatles", ["The Beatles"], "correct"),
        ("Beatles", ["The Beatles"], "correct"),
        ("I do not know", ["I", "iodine"], "abstain"),
        ("I'd say so. I think.", ["I"], "abstain"),
        ("Its symbol is I.", ["I", "iodine"], "correct"),
    ],
)
def test_words_that_are_names_as_well(text: str, right: list[str], verdict: str) -> None:
    assert grade_answer(text, right) == verdict


@pytest.mark.parametrize(
    ("text", "right", "verdict"),
    [
        ("3", ["3.0"], "correct"),
        ("3.00", ["3"], "correct"),
        ("3.5", ["3"], "abstain"),
        ("1,000", ["10", "1"], "abstain"),
        ("1,000,000", ["1000000"], "correct"),
        ("1 000 g", ["1,000"], "correct"),
        ("1 000", ["1"], "abstain"),
        ("1'000", ["1000"], "correct"),
        ("8,5", ["8"], "abstain"),
        ("8,5", ["8.5"], "correct"),
        ("minus 8", ["8"], "abstain"),
        ("negative 8", ["-8"], "correct"),
        ("\u22128", ["-8"], "correct"),
        ("-8", ["8"], "abstain"),
        ("10 minus 8", ["-8"], "abstain"),
        ("minus eight", ["eight"], "abstain"),
        ("1/2", ["1", "2"], "abstain"),
        ("\u00bd", ["1/2"], "correct"),
        ("3:30", ["3"], "abstain"),
        ("10^3", ["10"], "abstain"),
        ("8-10", ["8", "10"], "abstain"),
        ("twenty-eight", ["8", "eight"], "abstain"),
        ("eighty-eight", ["88", "eighty-eight"], "correct"),
        ("two hundred", ["100", "hundred", "one hundred"], "abstain"),
        ("one hundred", ["100", "hundred", "one hundred"], "correct"),
        ("a hundred", ["hundred"], "correct"),
        ("one hundred and eight", ["one hundred", "eight"], "abstain"),
        ("8 million", ["8"], "abstain"),
        ("8 million", ["8 million"], "correct"),
        ("eight and a half", ["eight"], "abstain"),
        ("eight point five", ["eight"], "abstain"),
        ("8 and 10", ["8"], "correct"),
        ("seven days and eight nights", ["eight"], "correct"),
        ("1. It has 8 legs", ["8"], "correct"),
    ],
)
def test_a_number_is_not_a_part_of_another(text: str, right: list[str], verdict: str) -> None:
    assert grade_answer(text, right) == verdict
