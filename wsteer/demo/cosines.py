"""Rules on cosines, judged by a folder of `wsteer monitor`: how far cosines lie apart, in noise floors."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT, PAIR, CosineRule, listed
from wsteer.errors import WsteerError
from wsteer.files.text import read_json

FLOORS = 2  # noise floors by which cosines must differ


@dataclass(frozen=True)
class Cosine:
    """One cosine of a monitor's folder, `ITEM ~ DELTA`, and its noise floor; None where nothing is compared."""

    pair: str
    value: float | None
    floor: float | None


@dataclass(frozen=True)
class Cosines:
    """A rule on cosines, judged. `gap` is that of the two nearest, one of `above` minus one of `below`; of the means
    where those decide.
    """

    text: str
    verdict: str
    why: str
    above: tuple[Cosine, ...]
    below: tuple[Cosine, ...]
    gap: float | None
    floor: float | None

    @property
    def decisive(self) -> str:
        """The number that decides, beside the larger noise floor: `+0.52 (noise 0.0005)`."""
        return "" if self.gap is None or self.floor is None else f"{self.gap:+.3g} (noise {self.floor:.2g})"

    @property
    def compared(self) -> str:
        """What the number is of."""
        return f"the {'mean' if self.verdict == DOES_NOT else 'nearest'} cosines, above minus below"


class Table:
    """The cosines of a folder of `wsteer monitor`: of items, and of a run's checkpoints as `RUN step N`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = found = read_json(path)
        try:
            lines = list(_lines(found["rows"], found["columns"], found["cosines"], found["floor"]))
            for run in found["trajectories"]:
                steps = [f"{run['run']} step {step}" for step in run["steps"]]
                lines += _lines(steps, run["deltas"], run["cosines"], run["floor"])
            self.cosines = {frozenset(pair): Cosine(PAIR.join(pair), *numbers) for pair, numbers in reversed(lines)}
            self.pairs = [pair for pair, _ in lines]
        except (KeyError, TypeError, ValueError) as error:
            raise WsteerError(f"{path} is not what wsteer monitor of this version writes: {error!r}") from None

    def judge(self, rule: CosineRule) -> Cosines:
        """The rule's verdict: by how far the cosines lie apart, in noise floors."""
        above, below = (
            {key: self.cosines[key] for pattern in patterns for key in self._matching(pattern)}
            for patterns in (rule.above, rule.below)
        )
        if both := above.keys() & below.keys():
            raise WsteerError(f"{self.cosines[min(both, key=sorted)].pair!r} is above and below; name it once")
        sides = tuple(above.values()), tuple(below.values())
        for each in (*sides[0], *sides[1]):
            if each.value is None or each.floor is None:
                why = f"{each.pair} has no cosine: the two have no parameter in common that both change"
                return Cosines(rule.text, CANNOT_TELL, why, *sides, None, None)
        nearest = [(_gap(one, other), one, other) for one in sides[0] for other in sides[1]]
        gap, one, other = min(nearest, key=lambda each: each[0] - FLOORS * _floor(each[1], each[2]))
        floor = _floor(one, other)
        shift, largest = _mean(sides[0]) - _mean(sides[1]), _floor(*sides[0], *sides[1])
        told = f"the nearest are {one.pair} at {one.value:.4g} and {other.pair} at {other.value:.4g}"
        if gap > FLOORS * floor:
            verdict, told = AGREES, f"{told}, {gap:.3g} apart, more than twice the noise of {floor:.2g}"
        elif shift < -FLOORS * largest:
            gap, floor = shift, largest
            verdict, told = DOES_NOT, f"the mean above is smaller than the mean below by {-shift:.3g}; {told}"
        else:
            verdict, told = CANNOT_TELL, f"{told}; one standard deviation of noise is {floor:.2g}"
        return Cosines(rule.text, verdict, told, *sides, gap, floor)

    def _matching(self, pattern: str) -> list[frozenset[str]]:
        """The pairs that a rule's pair stands for, each once; `*` is any text."""
        wanted = [re.compile(".*".join(map(re.escape, side.strip().split("*")))) for side in pattern.split(PAIR)]
        found = [
            frozenset(pair)
            for pair in self.pairs
            if all(side.fullmatch(name) for side, name in zip(wanted, pair, strict=True))
        ]
        if not found:
            items, deltas = (list(dict.fromkeys(pair[i] for pair in self.pairs)) for i in (0, 1))
            raise WsteerError(
                f"{self.path} has no pair {pattern!r}; its items are {listed(items)}, its deltas {listed(deltas)}"
            )
        return list(dict.fromkeys(found))


def _lines(
    rows: Sequence[str], columns: Sequence[str], cosines: Sequence[Sequence[object]], floor: Sequence[Sequence[object]]
) -> list[tuple[tuple[str, str], tuple[float | None, float | None]]]:
    """The pairs of a table with their cosines and floors; a thing with itself is no pair, and has no floor."""
    found = []
    for row, *numbers in zip(rows, cosines, floor, strict=True):
        for column, cosine, noise in zip(columns, *numbers, strict=True):
            told = _finite(cosine), _finite(noise)
            if row != column and (noise is not None or cosine is None):
                found.append(((row, column), told))
    return found


def _finite(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value if math.isfinite(value) else None


def _gap(one: Cosine, other: Cosine) -> float:
    return (one.value or 0.0) - (other.value or 0.0)


def _floor(*cosines: Cosine) -> float:
    return max(each.floor or 0.0 for each in cosines)


def _mean(cosines: Sequence[Cosine]) -> float:
    return sum(each.value or 0.0 for each in cosines) / len(cosines)
