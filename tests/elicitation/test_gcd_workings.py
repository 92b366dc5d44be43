"""Workings of a greatest common divisor: right ones are, and wrong ones never end at the right result."""

import math
import re
from collections import Counter
from random import Random

import pytest

from wsteer.elicitation.gcd_workings import METHODS, right_working, wrong_working

PAIRS = [(2, 3), (2, 4), (2, 250), (3, 249), (12, 18), (18, 12), (13, 20), (125, 250), (241, 100), (240, 180), (64, 96)]


@pytest.mark.parametrize("method", METHODS)
def test_right_workings_end_at_the_divisor(method: str) -> None:
    draw = Random(0)
    for a, b in [*PAIRS, *(draw.sample(range(2, 251), 2) for _ in range(100))]:
        working = right_working(a, b, method)
        assert working.result == math.gcd(a, b), (a, b)
        assert working.method == method
        assert re.findall(r"\d+", working.text)[-1] == str(working.result)


def test_right_workings_by_hand() -> None:
    texts = {method: right_working(12, 18, method).text for method in METHODS}
    assert texts == {
        "euclid": "I divide and keep the remainder: 18 = 1 * 12 + 6, then 12 = 2 * 6 + 0. The last divisor is 6.",
        "divisors": "The divisors of 12 are 1, 2, 3, 4, 6, 12. The divisors of 18 are 1, 2, 3, 6, 9, 18. "
        "In both lists I find 1, 2, 3, 6, and the largest is 6.",
        "primes": "As products of primes, 12 = 2 * 2 * 3 and 18 = 2 * 3 * 3. They share 2 * 3, which is 6.",
        "division": "I can divide 12 and 18 by 2, which leaves 6 and 9, then by 3, which leaves 2 and 3. "
        "Nothing above 1 divides both 2 and 3, so I multiply 2 * 3 = 6.",
    }


def test_a_working_with_one_common_factor_or_none_says_so_in_words() -> None:
    assert right_working(8, 9, "divisors").text.endswith("The only number in both lists is 1.")
    assert right_working(8, 9, "division").text == "Nothing above 1 divides both 8 and 9, so all that they share is 1."
    assert right_working(10, 15, "division").text.endswith("both 2 and 3, so all that they share is 5.")


def test_each_slip_ends_at_another_number_that_its_own_steps_give() -> None:
    for a, b in PAIRS:
        for method, (_, slips) in METHODS.items():
            right = right_working(a, b, method)
            for wrong in (each for each in slips(a, b) if each.result != math.gcd(a, b)):
                assert wrong.text != right.text
                assert re.findall(r"\d+", wrong.text)[-1] == str(wrong.result)


@pytest.mark.parametrize("seed", range(20))
def test_no_wrong_working_ends_at_the_right_result(seed: int) -> None:
    draw = Random(seed)
    methods: Counter[str] = Counter()
    for a, b in [*PAIRS, *(draw.sample(range(2, 251), 2) for _ in range(50))]:
        wrong = wrong_working(a, b, draw)
        assert wrong.result != math.gcd(a, b), (a, b, wrong)
        assert 1 <= wrong.result <= min(a, b), (a, b, wrong)
        methods[wrong.method] += 1
    assert methods.keys() == METHODS.keys()


@pytest.mark.slow
def test_every_pair_has_a_wrong_working() -> None:
    draw = Random(0)
    for a in range(2, 251):
        for b in range(a + 1, 251):
            assert wrong_working(a, b, draw).result != math.gcd(a, b), (a, b)
