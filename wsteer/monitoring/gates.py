"""Gates: bounds that a user sets on what monitor measures, for CI; a failure names the item that breaks one."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wsteer.errors import WsteerError

SHARED = "shared"  # in a gate's name, after the delta's: the cosine over the parameters that both change
PHRASES = {
    "cosine": "cosine with {}",
    "cosine_shared": "cosine over shared parameters with {}",
    "projection": "projection on {}",
}


@dataclass(frozen=True)
class Measured:
    """A value that gates may bound: the item's `measure` (a key of `PHRASES`) with the delta.

    `gate` is the name of the gate that bounds it: `w`, `w:shared` or, of a decoder block, `a:12`. A value that two
    gates bound is given twice. `value` is None for a cosine of two changes that have no parameter in common. `block`:
    the decoder block of a projection.
    """

    item: str
    delta: str
    measure: str
    value: float | None
    gate: str
    block: int | None = None


@dataclass(frozen=True)
class Failure:
    """A value beyond its gate: the item, the delta, what was measured, and the bound that it is `above` or `below`."""

    item: str
    delta: str
    measure: str
    value: float
    bound: float
    side: str
    block: int | None = None

    @property
    def text(self) -> str:
        """One line that names the item and what was measured."""
        what = PHRASES[self.measure].format(self.delta)
        if self.block is not None:
            what += f" at block {self.block}"
        return f"{self.item}: {what} is {self.value:.4f}, {self.side} {self.bound:g}"


def gate_cannot_break(gate: str, item: str, delta: str) -> str:
    """What to say of a gate on two changes that cannot be compared."""
    return (
        f"the gate {gate!r} cannot break: {item} and {delta} have no parameter in common that both change; "
        "leave one of them out"
    )


@dataclass(frozen=True)
class Gates:
    """Bounds by the name of a gate, `DELTA` or `DELTA:PART`: what they bound must not be above, or below, them."""

    above: Mapping[str, float]
    below: Mapping[str, float]

    def check_bounds(self) -> None:
        """Refuse a bound that nothing breaks."""
        for option, bounds in (("fail_above", self.above), ("fail_below", self.below)):
            for name, bound in bounds.items():
                if math.isnan(bound):
                    raise WsteerError(f"{option}: the bound of {name} is NaN, which no value breaks; give a number")

    def check_names(self, names: Sequence[str], parts: Collection[str] = (SHARED,)) -> None:
        """Refuse a gate on a delta, or on a part of what is measured of it, that is not there, before any work."""
        for gate in (*self.above, *self.below):
            name, colon, part = gate.rpartition(":")
            if gate in names or (colon and name in names and part in parts):
                continue
            if colon and name in names:
                known = " or ".join([name, *(f"{name}:{each}" for each in parts)])
                raise WsteerError(f"the gate {gate!r} bounds nothing that is measured; give {known}")
            raise WsteerError(f"the gate {gate!r} names no DELTA; they are {', '.join(names)}")

    def failures(self, measured: Iterable[Measured]) -> tuple[Failure, ...]:
        """The values that break a gate, in their order. Raises WsteerError for a gate on a value that is None."""
        found = []
        for each in measured:
            for side, bounds, sign in (("above", self.above, 1), ("below", self.below, -1)):
                bound = bounds.get(each.gate)
                if bound is None:
                    continue
                if each.value is None:
                    raise WsteerError(gate_cannot_break(each.gate, each.item, each.delta))
                if sign * each.value > sign * bound:
                    found.append(Failure(each.item, each.delta, each.measure, each.value, bound, side, each.block))
        return tuple(found)
