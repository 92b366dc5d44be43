"""Rules on a metric, judged by the rows of a folder of `wsteer eval`: intervals of paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT, MetricRule, listed
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.page import cells
from wsteer.evaluation.reading import read
from wsteer.evaluation.rows import Measure, Row, by_condition, find_measure
from wsteer.evaluation.summary import Comparison, Estimate, between, summarise

SMALL = 1e-9  # less is rounding


@dataclass(frozen=True)
class Chosen:
    """A side of a rule on a metric: as the rule names it, the condition's label, and its estimates.

    `kept` is that of the rule's `keep`.
    """

    given: str
    label: str
    estimate: Estimate | None
    kept: Estimate | None = None


@dataclass(frozen=True)
class Difference:
    """A rule on a metric, judged: both sides, and mine minus the other's on the same rows.

    `mine.estimate` has the comparison with the other side as `against_base`.
    """

    text: str
    verdict: str
    why: str
    metric: str
    keep: str | None
    mine: Chosen
    other: Chosen

    @property
    def decisive(self) -> str:
        """The number that decides, with its interval: `+12.5 (2.1 to 22.9)`, of shares in percentage points."""
        return difference_text(self.mine.estimate)

    @property
    def compared(self) -> str:
        """What the number is of: `kept, w k=1 minus base`."""
        return f"{self.metric}, {self.mine.label} minus {self.other.label}"


class Evaluation:
    """The rows of a folder of `wsteer eval`, and rules judged by them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = read([folder])
        bases = [each for each in self.found.conditions if each.is_base]
        if not bases:
            raise WsteerError(f"{folder} has no base, with which conditions are compared")
        self.base = bases[0]

    @cached_property
    def estimates(self) -> Mapping[tuple[str, str, str], Estimate]:
        """The estimates by (task, metric, name of the condition)."""
        found = summarise(self.found.rows, self.found.measures, self.found.conditions)
        return {(each.task, each.metric, each.condition): each for each in found}

    @cached_property
    def _rows(self) -> Mapping[tuple[str, str, str], Mapping[str, Row]]:
        """The rows of each metric of a task under a condition."""
        return by_condition(self.found.rows)

    def _between(self, measure: Measure, mine: Condition, other: Condition) -> Comparison:
        """How two conditions differ; the bases count for metrics that are among the rows that those get right."""
        conditions = list(dict.fromkeys([mine, other, *(each for each in self.found.conditions if each.is_base)]))
        places = [
            (measure.task, metric, each.name)
            for metric in dict.fromkeys((measure.metric, measure.among))
            for each in conditions
        ]
        rows = [row for place in places for row in self._rows.get(place, {}).values()]
        return between(rows, measure, conditions, mine, other)

    def judge(self, rule: MetricRule) -> Difference:
        """The rule's verdict: by the 95% interval of the difference of both sides, on the same rows."""
        try:
            measure = find_measure(self.found.measures, rule.metric)
            keep = find_measure(self.found.measures, rule.keep) if rule.keep is not None else None
        except WsteerError as error:
            raise WsteerError(f"{self.folder}: {error}") from None
        sides = [self._side(name) for name in (rule.mine, rule.other)]
        if keep is not None and all(label for label, _ in sides):
            raise WsteerError(
                f"{self.folder}: keep of a rule chooses among a method's conditions, and {rule.mine} and {rule.other} "
                "are conditions; leave keep out"
            )
        mine, other = (self._chosen(measure, keep, rule, label, each) for label, each in sides)
        compared = self._between(measure, mine, other)
        first, second = (self._estimate(measure, each) for each in (mine, other))
        if first is not None:  # of one and the same condition there is no difference
            first = replace(first, against_base=compared if mine != other else None)
        keeping = [self._estimate(keep, each) if keep is not None else None for each in (mine, other)]
        chosen = (Chosen(rule.mine, mine.label, first, keeping[0]), Chosen(rule.other, other.label, second, keeping[1]))
        told = f"{measure.metric} is {value_text(first)} under {mine.label}"
        if mine == other:
            kept = f" and keeps {keep.metric}" if keep is not None else ""
            why = f"{told}, which stands for both: nothing of either has {'more' if rule.more else 'less'}{kept}"
            return Difference(rule.text, CANNOT_TELL, why, rule.metric, rule.keep, *chosen)
        told += f", {value_text(second)} under {other.label}"
        told += "".join(f"; no condition of {each} keeps {rule.keep}" for each in self._lost(keep, rule, sides))
        low, high = compared.low, compared.high
        if low is None or high is None:
            return Difference(rule.text, CANNOT_TELL, f"{told}; the rows do not tell", rule.metric, rule.keep, *chosen)
        up, down = low > 0, high < 0
        verdict = AGREES if (up if rule.more else down) else DOES_NOT if (down if rule.more else up) else CANNOT_TELL
        side = "is above 0" if up else "is below 0" if down else "holds 0"
        why = f"{told}; the interval of the difference, {difference_text(first)} on {compared.pairs} pairs, {side}"
        return Difference(rule.text, verdict, why, rule.metric, rule.keep, *chosen)

    def _side(self, name: str) -> tuple[bool, list[Condition]]:
        """Whether a rule's side is a condition's label, and the conditions that it is: that one, or a method's."""
        conditions = self.found.conditions
        if labelled := [each for each in conditions if each.label == name]:
            return True, labelled
        if method := [each for each in conditions if each.method == name and each.part is None]:
            return False, [self.base, *method]
        labels = [each.label for each in conditions]
        methods = list(dict.fromkeys(each.method for each in conditions if each.method not in labels))
        close = get_close_matches(name, [*labels, *methods], 1)
        raise WsteerError(
            f"{self.folder} has no condition or method {name!r}; there are {listed([*labels, *methods])}"
            + (f"; did you mean {close[0]}?" if close else "")
        )

    def _chosen(
        self, measure: Measure, keep: Measure | None, rule: MetricRule, labelled: bool, conditions: Sequence[Condition]
    ) -> Condition:
        """The one condition of a side; of a method's that keep what is to be kept, the one with the most or the least.

        Of equal ones it is the base, then the one of the smallest |k|.
        """
        if labelled:
            return conditions[0]
        best = conditions[0]
        for each in sorted(conditions, key=lambda each: (not each.is_base, abs(each.k))):
            value, most = self._value(measure, each), self._value(measure, best)
            if value is None or not (each.is_base or keep is None or self._keeps(keep, each, rule.within)):
                continue
            if most is None or (value > most + SMALL if rule.more else value < most - SMALL):
                best = each
        return best

    def _keeps(self, keep: Measure, condition: Condition, within: float) -> bool:
        """Whether a condition lost no more of a metric against the base than `within`; an undefined one did."""
        own, base = self._value(keep, condition), self._value(keep, self.base)
        if own is None or base is None:
            return False
        lost = own - base if keep.better == "lower" else base - own
        return lost <= within + SMALL

    def _lost(self, keep: Measure | None, rule: MetricRule, sides: Sequence[tuple[bool, list[Condition]]]) -> list[str]:
        """The methods of a rule of which no condition keeps what is to be kept, so that the base stands for them."""
        named = zip((rule.mine, rule.other), sides, strict=True)
        return [
            name
            for name, (labelled, (_, *own)) in named
            if keep is not None and not labelled and not any(self._keeps(keep, each, rule.within) for each in own)
        ]

    def _value(self, measure: Measure, condition: Condition) -> float | None:
        estimate = self._estimate(measure, condition)
        return estimate.value if estimate is not None else None

    def _estimate(self, measure: Measure, condition: Condition) -> Estimate | None:
        return self.estimates.get((measure.task, measure.metric, condition.name))


def difference_text(estimate: Estimate | None) -> str:
    """An estimate's comparison as text, with its interval if it has one; "" where it has none."""
    if estimate is None or estimate.against_base is None or estimate.against_base.difference is None:
        return ""
    shown = cells(estimate)
    return f"{shown['difference']}" + (f" ({shown['difference_interval']})" if shown["difference_interval"] else "")


def value_text(estimate: Estimate | None) -> str:
    """An estimate's value with its interval and count: `62.5% (38.6% to 81.5%; 10/16)`."""
    if estimate is None:
        return "no rows"
    shown = cells(estimate)
    beside = "; ".join(filter(None, (str(shown["interval"]), str(shown["count"]))))
    return f"{shown['value']} ({beside})"
