"""Repetition, counted by hand and against a plain loop."""

import random

import pytest

from wsteer.evaluation.tasks.repetition import distinct, repeated, words


def test_a_text_that_repeats_itself() -> None:
    assert distinct("yes yes yes yes", 1) == 0.25
    assert distinct("Yes, yes!", 1) == 0.75  # three of yes , yes !
    assert repeated("a b c d a b c d a b c d") == pytest.approx(5 / 9)
    assert repeated("!!!!!!!!") == pytest.approx(4 / 5)


def test_short_texts_have_no_value() -> None:
    assert distinct("", 1) is None and distinct("one two", 3) is None and repeated("a b c") is None


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_against_a_plain_loop(n: int) -> None:
    chance = random.Random(n)
    text = " ".join(chance.choice("abcde") for _ in range(60))
    seen, again = [], 0
    tokens = words(text)
    for start in range(len(tokens) - n + 1):
        gram = tokens[start : start + n]
        again += gram in seen
        seen.append(gram)
    assert repeated(text, n) == pytest.approx(again / len(seen))
    assert distinct(text, n) == pytest.approx(1 - again / len(seen))
