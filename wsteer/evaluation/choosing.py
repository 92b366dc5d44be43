"""The choice of a condition: `max METRIC s.t. CONSTRAINTS` on one half of the rows, checked on the other half."""

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, Row, find_measure, prompt_digest
from wsteer.evaluation.summary import FEW, Estimate, summarise

FORM = "write 'max METRIC s.t. lo(METRIC) > -0.03, METRIC >= 0.5'"
GOAL = re.compile(r"\s*(max|min)\s+(\S+)\s*(?:(?:s\.t\.|subject\s+to)\s+(.+))?")
CONSTRAINT = re.compile(r"\s*(?:(lo|hi)\(\s*([^\s()<>=]+)\s*\)|([^\s()<>=]+))\s*(>=|<=|>|<)\s*([^\s,]+)\s*(?:,|$)")
HOLDS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric's value, or with `end` on that end (lo, hi) of its difference to the base."""

    measure: Measure
    term: str  # what is bounded, as the user wrote it: `lo(accuracy)`
    end: str
    sign: str
    bound: float

    def found(self, estimates: Sequence[Estimate], is_base: bool = False) -> float | None:
        """The number that is bounded, of the estimates of one condition; None where it is undefined.

        The base differs from itself by 0.
        """
        estimate = _of(estimates, self.measure)
        if estimate is None or not self.end:
            return estimate.value if estimate else None
        compared = estimate.against_base
        if compared is None:
            return 0.0 if is_base else None
        return compared.low if self.end == "lo" else compared.high

    def holds(self, found: float | None) -> bool:
        """Whether a number is within the bound; an undefined one is not."""
        return found is not None and HOLDS[self.sign](found, self.bound)

    def text(self, found: float | None) -> str:
        """`lo(accuracy) is -0.05, not > -0.03`, or without `not`."""
        but = " and" if self.holds(found) else ", not"
        return f"{self.term} is {'undefined' if found is None else f'{found:.4g}'}{but} {self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Rule:
    """What --choose says, parsed."""

    text: str
    largest: bool
    measure: Measure
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True)
class Check:
    """One constraint at the chosen condition: the number on the half that chose, and on the half held out."""

    constraint: str
    chosen_on: float | None
    held_out: float | None
    holds: bool


@dataclass(frozen=True)
class Choice:
    """The condition chosen on one half of the rows (its name), and its estimates on the half held out.

    `condition` is None where none qualifies; `why` then says so, with the nearest miss. `value` is the goal's on the
    half that chose. `holds` tells whether all constraints hold on the held-out half too.
    """

    text: str
    condition: str | None
    label: str | None
    value: float | None
    held_out: tuple[Estimate, ...]
    checks: tuple[Check, ...]
    holds: bool | None
    why: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The choice as results.json holds it."""
        return asdict(self)


def parse_choice(text: str, measures: Sequence[Measure]) -> Rule:
    """`max|min METRIC [s.t.|subject to CONSTRAINT, CONSTRAINT...]`; a constraint is `METRIC > NUMBER`, or < >= <=.

    `lo(METRIC)` and `hi(METRIC)` are the ends of the interval of its difference to the base. Raises WsteerError where
    the text is something else, or a metric is not known.
    """
    goal = GOAL.fullmatch(text)
    if goal is None:
        raise WsteerError(f"{text!r} is no rule of choice; {FORM}")
    constraints, place = [], goal.start(3)
    while goal[3] and place < len(text):
        match = CONSTRAINT.match(text, place)
        if match is None:
            raise WsteerError(f"{text[place:].strip()!r} is no constraint; {FORM}")
        try:
            bound = float(match[5])
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise WsteerError(f"{match[5]!r} is no number; {FORM}")
        measure = find_measure(measures, match[2] or match[3])
        term = f"{match[1]}({match[2]})" if match[1] else match[3]
        constraints.append(Constraint(measure, term, match[1] or "", match[4], bound))
        place = match.end()
    return Rule(text, goal[1] == "max", find_measure(measures, goal[2]), tuple(constraints))


def choose(
    rows: Sequence[Row], measures: Sequence[Measure], conditions: Sequence[Condition], text: str, seed: int = 0
) -> Choice:
    """The best condition under the constraints by one half of the rows, and how it does on the other half.

    Groups of rows are ordered by a hash of the seed and their names, and dealt out alternately; rows of the same group
    in all tasks and conditions are in the same half. Controls are no candidates. Where the base keeps the constraints,
    a condition must be better than it, else none qualifies: there is nothing to gain from steering. Of equals the
    smallest |k| is chosen. Raises WsteerError as `parse_choice` does.
    """
    rule = parse_choice(text, measures)
    first, second = _halves(rows, seed)
    chosen_on, held_out = (summarise(half, measures, conditions) for half in (first, second))
    candidates = [each for each in conditions if each.control is None]
    mine = {each: [found for found in chosen_on if found.condition == each.name] for each in candidates}
    missed = {each: _misses(rule, mine[each], each.is_base) for each in candidates}
    sign = -1 if rule.largest else 1

    def cost(condition: Condition) -> float:
        estimate = _of(mine[condition], rule.measure)
        return math.inf if estimate is None or estimate.value is None else sign * estimate.value

    qualified = sorted((each for each in candidates if not missed[each]), key=lambda each: (cost(each), abs(each.k)))
    best = next((each for each in qualified if not each.is_base), None)
    base = next((each for each in qualified if each.is_base), None)
    warnings = tuple(_small(chosen_on, rule))
    if best is None:
        why = _nearest({each: found for each, found in missed.items() if not each.is_base})
        return Choice(text, None, None, None, (), (), None, why, warnings)
    if base is not None and cost(base) <= cost(best):
        why = (
            f"none qualifies: within the constraints none has a better {rule.measure.metric} than the base; "
            f"the nearest is {best.label} ({sign * cost(best):.4g}, the base {sign * cost(base):.4g})"
        )
        return Choice(text, None, None, None, (), (), None, why, warnings)
    there = [each for each in held_out if each.condition == best.name]
    checks = tuple(_check(each, mine[best], there) for each in rule.constraints)
    holds = all(each.holds for each in checks)
    broken = "; ".join(each.constraint for each in checks if not each.holds)
    why = "" if holds else f"on the rows held out {broken}"
    return Choice(text, best.name, best.label, sign * cost(best), tuple(there), checks, holds, why, warnings)


def _of(estimates: Sequence[Estimate], measure: Measure) -> Estimate | None:
    """The estimate of a measure among those of one condition."""
    return next((e for e in estimates if (e.task, e.metric) == (measure.task, measure.metric)), None)


def _halves(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    groups = sorted({row.group for row in rows}, key=lambda group: prompt_digest(str(seed), group))
    first = set(groups[::2])
    return [row for row in rows if row.group in first], [row for row in rows if row.group not in first]


def _check(constraint: Constraint, chosen_on: Sequence[Estimate], held_out: Sequence[Estimate]) -> Check:
    found = constraint.found(held_out)
    return Check(constraint.text(found), constraint.found(chosen_on), found, constraint.holds(found))


def _misses(rule: Rule, estimates: Sequence[Estimate], is_base: bool) -> list[tuple[float, str]]:
    """By how much a condition breaks each constraint, in words too; an undefined goal is broken like a constraint."""
    found = [(each, each.found(estimates, is_base)) for each in rule.constraints]
    missed = [
        (math.inf if number is None else abs(number - each.bound), each.text(number))
        for each, number in found
        if not each.holds(number)
    ]
    goal = _of(estimates, rule.measure)
    undefined = goal is None or goal.value is None
    return [*missed, (math.inf, f"{rule.measure.metric} is undefined")] if undefined else missed


def _nearest(missed: dict[Condition, list[tuple[float, str]]]) -> str:
    """Why no condition qualifies, with the one that breaks the fewest constraints, and those by the least."""
    if not missed:
        return "none qualifies: there is no condition but the base and controls"
    nearest = min(missed, key=lambda each: (len(missed[each]), max(short for short, _ in missed[each])))
    return f"none qualifies; the nearest is {nearest.label}: {'; '.join(text for _, text in missed[nearest])}"


def _small(estimates: Sequence[Estimate], rule: Rule) -> list[str]:
    """A warning where half of the rows are few."""
    used = {(each.task, each.metric) for each in (rule.measure, *(c.measure for c in rule.constraints))}
    fewest: dict[str, int] = {}
    for each in estimates:
        if (each.task, each.metric) in used and each.groups < FEW:
            fewest[each.metric] = min(each.groups, fewest.get(each.metric, FEW))
    named = ", ".join(f"{metric} ({groups})" for metric, groups in fewest.items())
    return [f"the choice rests on fewer than {FEW} independent rows a half, for {named}"] if named else []
