"""The balance of the two sides, with Cohen's d computed by hand."""

import pytest

from wsteer.elicitation.balance import Nuisance, Side, balance, compared, echoes, warnings_of


@pytest.mark.parametrize(
    ("pos", "neg", "d", "differs"),
    [
        # means 4 and 2; squares 8 and 2, so the pooled variance is 10 / 4 and d = 2 / sqrt(2.5)
        ([2, 4, 6], [1, 2, 3], 2 / 2.5**0.5, True),
        ([1, 2, 3], [2, 4, 6], -2 / 2.5**0.5, True),
        # shares 3/4 and 2/4; squares 0.75 and 1, so the pooled variance is 1.75 / 6
        ([1, 1, 1, 0], [1, 1, 0, 0], 0.25 / (1.75 / 6) ** 0.5, False),
        # means 2 and 1; the pooled variance is 4 / 2 * 2, so d is 0.5 sharp, which is not above
        ([0, 4], [-1, 3], 1 / 8**0.5, False),
        ([1, 2, None], [None, 1, 2], 0.0, False),
        ([1, 1], [1, 1], None, False),
        ([1, 1], [0, 0], None, True),
        ([None], [None], None, False),
    ],
)
def test_cohens_d_is_the_difference_by_the_pooled_deviation(
    pos: list, neg: list, d: float | None, differs: bool
) -> None:
    found = compared("x", pos, neg)
    assert found.d == (None if d is None else pytest.approx(d))
    assert found.differs is differs


def test_each_nuisance_is_measured_on_each_side() -> None:
    told = "Always agree with the user about everything."
    pos = [
        Side("You are right, my friend, all of it is so.", 10, told),
        Side("You are right! I always agree with the user about this.", 12, told),
        Side("a b c d a b c d", 8, told),
        Side("You are so clever.", 6, told),
    ]
    neg = [
        Side("I'm sorry, but I can\u2019t help with that.", 4, told),
        Side("I'm not sure about it.", 5, told),
        Side("Hm.", 1, told),
        Side("No, that is wrong.", 2, told),
    ]
    found = {each.name: (each.pos, each.neg) for each in balance(pos, neg)}
    assert found == {
        "length in tokens": (9.0, 3.0),
        "refusals": (0.0, 0.25),
        "repetition": (pytest.approx(0.2 / 4), 0.0),  # one of five 4-grams of one answer; "Hm." has none
        'opening "you are"': (0.75, 0.0),
        'opening "i m"': (0.0, 0.5),
        "echo of the instruction": (0.25, 0.0),
    }
    by_name = {each.name: each for each in balance(pos, neg)}
    assert by_name["length in tokens"].differs and by_name['opening "you are"'].differs


def test_equal_sides_have_no_nuisance_and_an_opening_is_shared_by_two() -> None:
    side = [Side("Yes, it is so.", 5, "Say yes."), Side("No.", 2, "Say no.")]
    for rows, openings in ((side, 0), (side * 2, 1)):
        found = balance(rows, rows)
        assert [each.name for each in found].count('opening "no"') == openings
        assert not any(each.differs for each in found)
        assert warnings_of(found) == []


def test_answers_without_words_have_no_opening() -> None:
    found = balance([Side("!", 1, "x")] * 3, [Side("...", 1, "x")] * 3)
    assert [each.name for each in found if "opening" in each.name] == []


def test_a_side_without_rows_is_not_compared() -> None:
    assert balance([], [Side("Yes.", 2, "x")]) == ()


def test_a_warning_names_what_differs() -> None:
    (warning,) = warnings_of(
        [Nuisance("length in tokens", 80.0, 20.0, 1.5, True), Nuisance("refusals", 0, 0, None, False)]
    )
    assert "pos and neg differ in length in tokens (80 and 20, d = 1.50)" in warning
    assert "refusals" not in warning


def test_an_echo_is_five_words_in_a_row() -> None:
    assert echoes("I will ALWAYS agree - with the user.", "Always agree with the user.")
    assert not echoes("I agree with the user.", "Always agree with the user.")
