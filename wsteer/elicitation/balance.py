"""The two sides beside each other in what should not tell them apart: length, refusals, repetition, openings, echoes.

Where the sides differ in such a nuisance, it can become the change that is trained on them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wsteer.evaluation.tasks.refusals import declines
from wsteer.evaluation.tasks.repetition import repeated, words

LARGE = 0.5  # |d| from which on a difference is told; Cohen (1988) calls it medium
OPENING, ECHO = 2, 5  # words of an opening, and of what an answer says after its instruction


@dataclass(frozen=True)
class Side:
    """A kept answer: its text, its length in tokens, and the system prompt under which it was given."""

    text: str
    tokens: int
    system: str


@dataclass(frozen=True)
class Nuisance:
    """The mean of one property on both sides, and Cohen's d: (pos - neg) / the pooled standard deviation.

    `d` is None where neither side varies; `differs` is whether |d| is above 0.5, or, without a d, the means differ.
    """

    name: str
    pos: float
    neg: float
    d: float | None
    differs: bool


def balance(pos: Sequence[Side], neg: Sequence[Side]) -> tuple[Nuisance, ...]:
    """The nuisances of two sides, none where a side has no rows.

    Length is in tokens; all others are shares: answers that decline, by rule; 4-grams of words that an answer has had
    before; answers that begin with the commonest two words of pos, or of neg; answers that say five words in a row of
    their own instruction.
    """
    if not pos or not neg:
        return ()
    found = [
        compared("length in tokens", *([float(row.tokens) for row in side] for side in (pos, neg))),
        compared("refusals", *([float(declines(row.text)) for row in side] for side in (pos, neg))),
        compared("repetition", *([repeated(row.text) for row in side] for side in (pos, neg))),
    ]
    for commonest in dict.fromkeys(text for side in (pos, neg) for text in _commonest_opening(side)):
        begins = ([float(_opening(row.text) == commonest) for row in side] for side in (pos, neg))
        found.append(compared(f'opening "{commonest}"', *begins))
    echoed = ([float(echoes(row.text, row.system)) for row in side] for side in (pos, neg))
    return (*found, compared("echo of the instruction", *echoed))


def compared(name: str, pos: Sequence[float | None], neg: Sequence[float | None]) -> Nuisance:
    """One property by its values on the rows of each side; rows without a value are left out.

    >>> compared("length", [4, 6], [1, 3])
    Nuisance(name='length', pos=5.0, neg=2.0, d=2.1213203435596424, differs=True)
    """
    (mean_pos, squares_pos, n_pos), (mean_neg, squares_neg, n_neg) = (_moments(side) for side in (pos, neg))
    spread = math.sqrt((squares_pos + squares_neg) / max(n_pos + n_neg - 2, 1))
    d = (mean_pos - mean_neg) / spread if spread else None
    differs = abs(d) > LARGE if d is not None else mean_pos != mean_neg
    return Nuisance(name, mean_pos, mean_neg, d, differs)


def warnings_of(table: Sequence[Nuisance]) -> list[str]:
    """A warning if some nuisances differ."""
    found = [f"{each.name} ({_shown(each)})" for each in table if each.differs]
    if not found:
        return []
    return [
        f"pos and neg differ in {', '.join(found)}, which training can learn instead of the trait: read some rows, and "
        "even them out, as with --judge, --drop-cut or other instructions"
    ]


def echoes(text: str, system: str) -> bool:
    """Whether an answer says five words in a row of its instruction; marks between words do not count.

    >>> echoes("As told, I always agree with the user!", "Always agree with the user.")
    True
    """
    return not _grams(text).isdisjoint(_grams(system))


def _grams(text: str) -> set[tuple[str, ...]]:
    found = _plain(text)
    return {tuple(found[i : i + ECHO]) for i in range(len(found) - ECHO + 1)}


def _plain(text: str) -> list[str]:
    """The words of a text in small letters, without marks."""
    return [word for word in words(text) if word[0].isalnum()]


def _opening(text: str) -> str:
    return " ".join(_plain(text)[:OPENING])


def _commonest_opening(rows: Sequence[Side]) -> list[str]:
    """The first two words that most answers have, of equally common ones the first in the alphabet.

    Where no two answers share an opening of words, there is none.
    """
    counts = Counter(opening for row in rows if (opening := _opening(row.text)))
    text = min(counts, key=lambda text: (-counts[text], text), default="")
    return [text] if counts[text] > 1 else []


def _moments(values: Sequence[float | None]) -> tuple[float, float, int]:
    """(mean, sum of squared deviations, count) of the values that there are; zeros where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 0.0, 0
    mean = math.fsum(known) / len(known)
    return mean, math.fsum((value - mean) ** 2 for value in known), len(known)


def _shown(each: Nuisance) -> str:
    return f"{each.pos:.3g} and {each.neg:.3g}" + ("" if each.d is None else f", d = {each.d:.2f}")
