"""Letters read from answers, and options exchanged in questions."""

import pytest

from wsteer.evaluation.paper.options import exchanged, final_letter, lone_letter


@pytest.mark.parametrize(
    "text, letter",
    [
        ("A", "A"),
        (" b.\n", "B"),
        ("(A)", "A"),
        ("**B**", "B"),
        ("A)", "A"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("", None),
        ("C", None),
        ("A man", None),
        ("A or B", None),
        ("Answer: A or B", None),
        ("Answer: A", None),  # not a letter alone
        ("A) Write the report", None),
        ("BA", None),
    ],
)
def test_a_lone_letter_is_the_whole_answer(text: str, letter: str | None) -> None:
    assert lone_letter(text) == letter


@pytest.mark.parametrize(
    "told, letter",
    [
        (" (B)", "B"),
        ("** B", "B"),
        (" **B**", "B"),
        ("\n\nA", "A"),
        (" a", "A"),
        (" A) Write the report", "A"),
        (" Option (A).", "A"),
        (" B, because A would harm people", "B"),
        (" B \u2013 the report", "B"),
        (" \\boxed{A}", "A"),
        (" <A>", "A"),
        (" A) A report", "A"),
        (" B) Build it", "B"),
        (" C", None),
        (" A or B", None),
        (" (A) or (B)", None),
        (" A, B", None),
        (" A/B", None),
        (" **A** and **B**", None),
        (" A man is harmed", None),
        (" a choice that is right", None),
        (" A\u2019s report", None),
        (" A-level work", None),
        (" the letter", None),
        ("", None),
    ],
)
def test_the_final_letter_is_a_letter_and_no_word(told: str, letter: str | None) -> None:
    assert final_letter(f"A man is harmed by B.\nFinal Answer:{told}") == letter


def test_the_last_marker_wins() -> None:
    assert final_letter("Final Answer: A\nNo, wait.\n**Final answer**: B") == "B"
    assert final_letter("Final Answer: A\nNo, wait.\nFinal Answer: neither") is None
    assert final_letter("A man came. Final Answer: C") is None
    assert final_letter("I choose A.") is None and final_letter("") is None
    assert final_letter("Final Answer: (C)", "ABCD") == "C"


def test_a_broken_models_long_run_of_blanks_is_read_in_no_time() -> None:
    blanks = "\n" * 20_000
    assert final_letter(f"Final Answer:{blanks}B{blanks}A") is None
    assert final_letter(f"Final Answer: option{blanks}B{blanks}") == "B"


@pytest.mark.parametrize(
    "text, other",
    [
        ("You choose:\n\nA) Lie, and win\n\nB) Be honest", "You choose:\n\nA) Be honest\n\nB) Lie, and win"),
        ("S.\n(A) Lie.\n(B) Be honest.\n\nWhich?", "S.\n(A) Be honest.\n(B) Lie.\n\nWhich?"),
        ("S.\nA. Lie;\nB. Be honest.", "S.\nA. Be honest;\nB. Lie."),
        ("S.\nOption A: Lie\nOption B: Be honest", "S.\nOption A: Be honest\nOption B: Lie"),
        ("S.\n**A)** Lie\n**B)** Be honest", "S.\n**A)** Be honest\n**B)** Lie"),
        ("S.\n- A) Lie, or\n- B) be honest?", "S.\n- A) be honest, or\n- B) Lie?"),
        ("Do you (A) lie, or (B) be honest?", "Do you (A) be honest, or (B) lie?"),
        ("S: A) lie or B) be honest. Which?", "S: A) be honest or B) lie. Which?"),
        ("Plan A. It is.\nA) Lie.\nB) Be", "Plan A. It is.\nA) Be.\nB) Lie"),
    ],
)
def test_options_are_exchanged_and_all_else_stays(text: str, other: str) -> None:
    assert exchanged(text) == other
    assert exchanged(other) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No options at all",
        "A) One alone",
        "B) Lie\nA) Be honest",
        "A) Lie\nB) Be honest\nC) Wait",
        "A) The same\nB) The same",
        "A) Lie\nB) Do not do what option A says",
        "A) Lie\n\nand hide it\n\nB) Be honest\n\nand tell it",  # or is the last line a question to both?
        "A)\nB)",
    ],
)
def test_options_that_cannot_be_told_apart_are_not_exchanged(text: str) -> None:
    assert exchanged(text) is None
