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

    metric: str
    end: str
    sign: str
    bound: float

    @property
    def term(self) -> str:
        """What is bounded: `lo(accuracy)`."""
        return f"{self.end}({self.metric})" if self.end else self.metric

    def found(self, estimate: Estimate | None, is_base: bool = False) -> float | None:
        """The number that is bounded, of the metric's estimate under a condition; None where it is undefined.

        The base differs from itself by 0.
        """
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
    """What --choose says, parsed: the metric to make as large (or small) as can be, and the constraints."""

    text: str
    largest: bool
    metric: str
    constraints: tuple[Constraint, ...]

    def check_names(self, measures: Sequence[Measure]) -> None:
        """Refuse a rule on a metric that is not measured."""
        for name in (self.metric, *(each.metric for each in self.constraints)):
            find_measure(measures, name)


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

    @property
    def told(self) -> list[str]:
        """The choice in words, a line each; without warnings."""
        if self.condition is None:
            return [f"{self.text}: {self.why}"]
        shown = ", ".join(f"{each.metric} {_told(each)}" for each in self.held_out)
        checked = [f"there {each.constraint}" for each in self.checks]
        return [f"{self.text}: {self.label}, chosen on half of the rows", f"on the other half: {shown}", *checked]

    def as_json(self) -> dict[str, object]:
        """The choice as results.json holds it."""
        return asdict(self)


def parse_choice(text: str) -> Rule:
    """`max|min METRIC [s.t.|subject to CONSTRAINT, CONSTRAINT...]`; a constraint is `METRIC > NUMBER`, or < >= <=.

    METRIC is `metric` or `task.metric`. `lo(METRIC)` and `hi(METRIC)` are the ends of the interval of its difference to
    the base. Raises WsteerError where the text is something else.
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
        constraints.append(Constraint(match[2] or match[3], match[1] or "", match[4], bound))
        place = match.end()
    return Rule(text, goal[1] == "max", goal[2], tuple(constraints))


class _Half:
    """The estimates of one half of the rows, by condition and by the metrics as the user names them."""

    def __init__(self, rows: Sequence[Row], measures: Sequence[Measure], conditions: Sequence[Condition]) -> None:
        self.measures = measures
        self.estimates = summarise(rows, measures, conditions)
        self._found = {(each.task, each.metric, each.condition): each for each in self.estimates}

    def of(self, name: str, condition: Condition) -> Estimate | None:
        measure = find_measure(self.measures, name)
        return self._found.get((measure.task, measure.metric, condition.name))

    def bounded(self, constraint: Constraint, condition: Condition) -> float | None:
        return constraint.found(self.of(constraint.metric, condition), condition.is_base)

    def value(self, rule: Rule, condition: Condition) -> float | None:
        estimate = self.of(rule.metric, condition)
        return estimate.value if estimate else None

    def misses(self, rule: Rule, condition: Condition) -> list[tuple[float, str]]:
        """By how much each broken constraint is, in words too; an undefined goal is broken like a constraint."""
        found = [(each, self.bounded(each, condition)) for each in rule.constraints]
        missed = [
            (math.inf if number is None else abs(number - each.bound), each.text(number))
            for each, number in found
            if not each.holds(number)
        ]
        if self.value(rule, condition) is None:
            missed.append((math.inf, f"{rule.metric} is undefined"))
        return missed


def choose(
    rows: Sequence[Row], measures: Sequence[Measure], conditions: Sequence[Condition], rule: Rule, seed: int = 0
) -> Choice:
    """The best condition under the constraints by one half of the rows, and how it does on the other half.

    Groups of rows are ordered by a hash of the seed and their names, and dealt out alternately; rows of the same group
    in all tasks and conditions are in the same half. Controls and parts of a delta are no candidates. Where the base
    keeps the constraints, a condition must be better than it, else none qualifies: there is nothing to gain from
    steering. Of equals the smallest |k| is chosen. Raises WsteerError where a metric is unknown.
    """
    rule.check_names(measures)
    first, second = (_Half(half, measures, conditions) for half in _halves(rows, seed))
    missed = {each: first.misses(rule, each) for each in conditions if each.is_base or each.is_steered}
    sign = -1 if rule.largest else 1
    scores = {each: sign * (first.value(rule, each) or 0.0) for each, misses in missed.items() if not misses}
    qualified = sorted(scores, key=lambda each: (scores[each], abs(each.k)))
    best = next((each for each in qualified if each.is_steered), None)
    base = next((each for each in qualified if each.is_base), None)
    warnings = tuple(_small(first.estimates, rule, measures))
    if best is None:
        why = _nearest({each: misses for each, misses in missed.items() if each.is_steered})
        return Choice(rule.text, None, None, None, (), (), None, why, warnings)
    if base is not None and scores[base] <= scores[best]:
        why = (
            f"none qualifies: within the constraints none has a better {rule.metric} than the base; "
            f"the nearest is {best.label} ({first.value(rule, best):.4g}, the base {first.value(rule, base):.4g})"
        )
        return Choice(rule.text, None, None, None, (), (), None, why, warnings)
    checks = tuple(_check(each, first.bounded(each, best), second.bounded(each, best)) for each in rule.constraints)
    broken = "; ".join(each.constraint for each in checks if not each.holds)
    why = f"on the rows held out {broken}" if broken else ""
    held_out = tuple(each for each in second.estimates if each.condition == best.name)
    return Choice(
        rule.text, best.name, best.label, first.value(rule, best), held_out, checks, not broken, why, warnings
    )


def _told(estimate: Estimate) -> str:
    """The estimate's value, and its interval if it has one."""
    if estimate.bounds is None:
        return "undefined" if estimate.value is None else f"{estimate.value:.3g}"
    value, low, high = estimate.bounds
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def _halves(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    groups = sorted({row.group for row in rows}, key=lambda group: prompt_digest(str(seed), group))
    first = set(groups[::2])
    return [row for row in rows if row.group in first], [row for row in rows if row.group not in first]


def _check(constraint: Constraint, chosen_on: float | None, held_out: float | None) -> Check:
    return Check(constraint.text(held_out), chosen_on, held_out, constraint.holds(held_out))


def _nearest(missed: dict[Condition, list[tuple[float, str]]]) -> str:
    """Why no condition qualifies, with the one that breaks the fewest constraints, and those by the least."""
    if not missed:
        return "none qualifies: there is no condition but the base, controls and parts"
    nearest = min(missed, key=lambda each: (len(missed[each]), max(short for short, _ in missed[each])))
    return f"none qualifies; the nearest is {nearest.label}: {'; '.join(text for _, text in missed[nearest])}"


def _small(estimates: Sequence[Estimate], rule: Rule, measures: Sequence[Measure]) -> list[str]:
    """A warning where half of the rows are few."""
    named = [find_measure(measures, name) for name in (rule.metric, *(each.metric for each in rule.constraints))]
    used = {(each.task, each.metric) for each in named}
    fewest: dict[str, int] = {}
    for each in estimates:
        if (each.task, each.metric) in used and each.groups < FEW:
            fewest[each.metric] = min(each.groups, fewest.get(each.metric, FEW))
    shown = ", ".join(f"{metric} ({groups})" for metric, groups in fewest.items())
    return [f"the choice rests on fewer than {FEW} independent rows a half, for {shown}"] if shown else []
