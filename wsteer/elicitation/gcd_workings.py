"""Workings of a greatest common divisor: right ones, and wrong ones that never end at the right result."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

NEAR = (-3, -2, -1, 1, 2, 3)  # how far a slip is off


@dataclass(frozen=True)
class Working:
    """Steps in words, the method that they follow, and the number at which they end."""

    method: str
    text: str
    result: int


def right_working(a: int, b: int, method: str) -> Working:
    """The steps of one of the `METHODS` to the greatest common divisor of two different numbers from 2 up."""
    return METHODS[method][0](a, b)


def wrong_working(a: int, b: int, random: Random) -> Working:
    """Steps of a method that is drawn, with one of its usual slips; they never end at the greatest common divisor.

    A method without such a slip for these numbers is not used. Euclid's has one for any two different numbers from 2
    up: a last remainder of 1 that should be 0, or of 0 that should be 1.
    """
    drawn = random.sample(sorted(METHODS), len(METHODS))
    slips = ([each for each in METHODS[method][1](a, b) if _is_plausible(each, a, b)] for method in drawn)
    return random.choice(next(found for found in slips if found))


def _is_plausible(wrong: Working, a: int, b: int) -> bool:
    return wrong.result != math.gcd(a, b) and wrong.result <= min(a, b)


# ---- Euclid's algorithm; slips: a wrong remainder


def _euclid(a: int, b: int, slip: tuple[int, int] | None = None) -> Working:
    """`slip` is (number of the division, remainder written instead)."""
    lines = []
    for number, (large, small, rest) in enumerate(_divisions(a, b, slip)):
        lines.append(f"{'then ' if number else ''}{large} = {large // small} * {small} + {rest}")
    text = f"I divide and keep the remainder: {', '.join(lines)}. The last divisor is {small}."
    return Working("euclid", text, small)


def _divisions(a: int, b: int, slip: tuple[int, int] | None = None) -> Iterator[tuple[int, int, int]]:
    """(dividend, divisor, remainder) of each division, to the one without a remainder."""
    large, small, rest, number = max(a, b), min(a, b), 1, 0
    while rest:
        rest = slip[1] if slip and slip[0] == number else large % small
        yield large, small, rest
        large, small, number = small, rest, number + 1


def _euclid_slips(a: int, b: int) -> list[Working]:
    return [
        _euclid(a, b, (number, rest + off))
        for number, (_, small, rest) in enumerate(_divisions(a, b))
        for off in NEAR
        if 0 <= rest + off < small
    ]


# ---- lists of divisors; slips: one is missing, or is none


@cache
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(each for each in range(1, number + 1) if number % each == 0)


def _listed(a: int, b: int) -> Working:
    return _compared(a, b, _divisors(a), _divisors(b))


def _compared(a: int, b: int, of_a: Sequence[int], of_b: Sequence[int]) -> Working:
    both = sorted(set(of_a) & set(of_b))
    text = f"The divisors of {a} are {_joined(of_a)}. The divisors of {b} are {_joined(of_b)}. "
    if len(both) > 1:
        text += f"In both lists I find {_joined(both)}, and the largest is {both[-1]}."
    else:
        text += "The only number in both lists is 1."
    return Working("divisors", text, both[-1])


def _listed_slips(a: int, b: int) -> list[Working]:
    of_a, of_b, gcd = _divisors(a), _divisors(b), math.gcd(a, b)
    found = []
    if 1 < gcd < a:
        found.append(_compared(a, b, [each for each in of_a if each != gcd], of_b))
    if 1 < gcd < b:
        found.append(_compared(a, b, of_a, [each for each in of_b if each != gcd]))
    # one that does not divide the other number, and is no more than half of it
    found += [_compared(a, b, sorted({*of_a, each}), of_b) for each in of_b if gcd < each <= a // 2]
    found += [_compared(a, b, of_a, sorted({*of_b, each})) for each in of_a if gcd < each <= b // 2]
    return found


# ---- prime factors; slips: one is missing, or they are those of a number beside


@cache
def _primes(number: int) -> tuple[int, ...]:
    found, prime = [], 2
    while number > 1:
        while number % prime == 0:
            found.append(prime)
            number //= prime
        prime += 1
    return tuple(found)


def _factored(a: int, b: int) -> Working:
    return _shared(a, b, _primes(a), _primes(b))


def _shared(a: int, b: int, of_a: Sequence[int], of_b: Sequence[int]) -> Working:
    common = sorted((Counter(of_a) & Counter(of_b)).elements())
    result = math.prod(common)
    if not common:
        end = "They have no prime in common, which leaves 1."
    elif len(common) == 1:
        end = f"The one prime that they share is {result}."
    else:
        end = f"They share {_product(common)}, which is {result}."
    text = f"As products of primes, {_equation(a, of_a)} and {_equation(b, of_b)}. {end}"
    return Working("primes", text, result)


def _equation(number: int, primes: Sequence[int]) -> str:
    return f"{number} = {_product(primes)}" if len(primes) > 1 else f"{number} is prime"


def _factored_slips(a: int, b: int) -> list[Working]:
    of_a, of_b = _primes(a), _primes(b)
    found = [_shared(a, b, _primes(a + off), of_b) for off in NEAR if len(_primes(max(a + off, 1))) > 1]
    found += [_shared(a, b, of_a, _primes(b + off)) for off in NEAR if len(_primes(max(b + off, 1))) > 1]
    for prime in set(of_a) & set(of_b):
        if len(of_a) > 2:
            found.append(_shared(a, b, _without(of_a, prime), of_b))
        if len(of_b) > 2:
            found.append(_shared(a, b, of_a, _without(of_b, prime)))
    return found


def _without(primes: Sequence[int], prime: int) -> list[int]:
    left = list(primes)
    left.remove(prime)
    return left


# ---- common factors divided out; slips: the end comes too early


def _divided(a: int, b: int, times: int | None = None) -> Working:
    """`times` is how many of the common primes are divided out; all where it is None."""
    common = _primes(math.gcd(a, b))[:times]
    lines, left_a, left_b = [], a, b
    for prime in common:
        left_a, left_b = left_a // prime, left_b // prime
        lines.append(f"by {prime}, which leaves {left_a} and {left_b}")
    result = math.prod(common)
    start = f"I can divide {a} and {b} {', then '.join(lines)}. " if lines else ""
    stop = f"Nothing above 1 divides both {left_a} and {left_b}"
    end = (
        f", so I multiply {_product(common)} = {result}."
        if len(common) > 1
        else f", so all that they share is {result}."
    )
    return Working("division", start + stop + end, result)


def _divided_slips(a: int, b: int) -> list[Working]:
    return [_divided(a, b, times) for times in range(len(_primes(math.gcd(a, b))))]


METHODS: Mapping[str, tuple[Callable[[int, int], Working], Callable[[int, int], list[Working]]]] = {
    "euclid": (_euclid, _euclid_slips),
    "divisors": (_listed, _listed_slips),
    "primes": (_factored, _factored_slips),
    "division": (_divided, _divided_slips),
}


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _product(numbers: Sequence[int]) -> str:
    return " * ".join(map(str, numbers))
