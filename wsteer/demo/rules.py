"""The rules of a finding, read from an experiment's file before there are results: two kinds, and their words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsteer.errors import WsteerError

PAIR = " ~ "
AGREES, DOES_NOT, CANNOT_TELL = "agrees", "does not", "cannot tell at this size"
MOST_NAMED = 40  # names that an error lists
FORMS = (
    "{metric: METRIC, more: X, than: Y} or {metric: METRIC, less: X, than: Y}, with keep: METRIC and within: NUMBER "
    "or without, or {above: [ITEM ~ DELTA], below: [ITEM ~ DELTA]}"
)


@dataclass(frozen=True)
class MetricRule:
    """`mine` is to have `more` of a metric than `other`, or less: each a condition's label, or a method.

    Of a method the condition with the most (or least) of it counts, where it may have lost up to `within` of the metric
    `keep` against the base.
    """

    metric: str
    mine: str
    other: str
    more: bool
    keep: str | None = None
    within: float = 0.0

    @property
    def text(self) -> str:
        """The rule in words."""
        said = f"{self.metric}: {'more' if self.more else 'less'} under {self.mine} than under {self.other}"
        if self.keep is None:
            return said
        most = "highest" if self.more else "lowest"
        return (
            f"{said}; of a method the condition with the {most} counts, if {self.keep} is worse than the base's by at "
            f"most {self.within:g}"
        )


@dataclass(frozen=True)
class CosineRule:
    """Every cosine of the pairs `above` is to be larger than every one of `below`; `ITEM ~ DELTA`, `*` is any text."""

    above: tuple[str, ...]
    below: tuple[str, ...]

    @property
    def text(self) -> str:
        """The rule in words."""
        return (
            f"cosines: {', '.join(self.above)} above {', '.join(self.below)}, each by more than twice the standard "
            "deviation of noise"
        )


Rule = MetricRule | CosineRule


def read_rule(given: Mapping[str, object]) -> Rule:
    """The rule that a table of an experiment's file is. Raises WsteerError where it has another form."""
    known = {"metric", "more", "less", "than", "keep", "within", "above", "below"}
    if unknown := sorted(str(key) for key in given if key not in known):
        raise WsteerError(f"a rule has no {unknown[0]!r}; write {FORMS}")
    if given.keys() & {"above", "below"}:
        if given.keys() != {"above", "below"}:
            raise WsteerError(f"a rule on cosines has above and below, and nothing else; write {FORMS}")
        return CosineRule(_pairs("above", given["above"]), _pairs("below", given["below"]))
    sides = given.keys() & {"more", "less"}
    if len(sides) != 1 or not {"metric", "than"} <= given.keys():
        raise WsteerError(f"a rule on a metric has metric, than, and more or less; write {FORMS}")
    if ("keep" in given) != ("within" in given):
        raise WsteerError("keep and within of a rule go together; give both or neither")
    (side,) = sides
    keep = _text("keep", given["keep"]) if "keep" in given else None
    metric, mine, other = (_text(key, given[key]) for key in ("metric", side, "than"))
    rule = MetricRule(metric, mine, other, side == "more", keep, _within(given.get("within", 0)))
    if rule.mine == rule.other:
        raise WsteerError(f"a rule compares {rule.mine!r} with itself; name two")
    return rule


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise WsteerError(f"{key} of a rule is no text: {value!r}; put it in quotes")
    return value


def _within(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:  # type: ignore[arg-type, operator]
        raise WsteerError(f"within of a rule is a number from 0 on, not {value!r}")
    return float(value)  # type: ignore[arg-type]


def _pairs(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise WsteerError(f"{key} of a rule is a list of pairs, as ['pos ~ w']")
    pairs = tuple(_text(key, each) for each in value)
    for each in pairs:
        if len(sides := each.split(PAIR)) != 2 or not all(side.strip() for side in sides):
            raise WsteerError(f"{each!r} of {key} is no pair; write 'ITEM ~ DELTA'")
    return pairs


def listed(names: Sequence[str]) -> str:
    """Names as an error gives them: the first of many."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
