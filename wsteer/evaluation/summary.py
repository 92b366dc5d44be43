"""The summary of an evaluation: rows -> estimates with intervals, each compared with the base on the same rows."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import ABSTAINED, CUT, OUTSIDE, Kind, Measure, Row, by_condition
from wsteer.statistics import (
    ALPHA,
    Difference,
    Interval,
    Sums,
    clustered_mean,
    clustered_share,
    holm_adjusted,
    paired_means,
    paired_ratios,
    paired_shares,
    perplexity,
    wilson,
)

FEW = 30  # below as many independent rows an estimate is marked
MOST_NAMED = 4  # estimates that a warning names
NOT_FINITE = "failed: not a finite number"  # of a model that gives NaN

Pair = tuple[Row, Row]  # of the condition, and of the base or what else it is compared with


@dataclass(frozen=True)
class Comparison:
    """The difference to the base (k = 0) over the pairs, with its 95% interval; None where the pairs do not tell.

    `between` gives that to another condition. `p_adjusted` is Holm's over the conditions of this metric, `significant`
    whether it is below 5%. `fixed` rows went from 0 to 1 and `broken` ones from 1 to 0, None of what is no share.
    `left_out` counts the rows without a partner by reason: `missing` under one side, `prompt` differs, `unscored` on
    one side or both.
    """

    difference: float | None
    low: float | None
    high: float | None
    interval: str
    p: float | None
    pairs: int
    fixed: int | None
    broken: int | None
    left_out: Mapping[str, int]
    p_adjusted: float | None = None
    significant: bool = False


@dataclass(frozen=True)
class Estimate:
    """One metric of a task under one condition (its name), with a 95% interval of the kind `interval`.

    `value` is None where the denominator is 0; `low` and `high` also where the rows do not tell. `n` rows were scored,
    in `groups` independent groups, fewer than 30 of which set `low_n`. `unscored` counts the other rows by reason,
    without those outside of the metric; `unfinished` are scored rows whose answer was cut. `numerator` and
    `denominator` are a share's. A base has no `against_base`.
    """

    task: str
    metric: str
    condition: str
    value: float | None
    low: float | None
    high: float | None
    interval: str
    numerator: int | None
    denominator: int | None
    n: int
    groups: int
    low_n: bool
    unscored: Mapping[str, int]
    unfinished: int = 0
    against_base: Comparison | None = None

    @property
    def bounds(self) -> tuple[float, float, float] | None:
        """(value, low, high) where all are defined."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return self.value, self.low, self.high

    def as_json(self) -> dict[str, object]:
        """The estimate as results.json holds it."""
        return asdict(self)

    def as_line(self) -> dict[str, object]:
        """The estimate flat, as results.csv holds it; what a comparison says has names of its own."""
        line = {key: value for key, value in asdict(self).items() if key not in ("unscored", "against_base")}
        counts = dict(self.unscored)
        line |= {ABSTAINED: counts.pop(ABSTAINED, 0), CUT: counts.pop(CUT, 0), "failed": sum(counts.values())}
        compared = asdict(self.against_base) if self.against_base else dict.fromkeys(Comparison.__annotations__)
        left_out = compared.pop("left_out")
        names = {"low": "difference_low", "high": "difference_high", "interval": "difference_interval"}
        line |= {names.get(key, key): value for key, value in compared.items()}
        return line | {"left_out": sum(left_out.values()) if left_out is not None else None}


def summarise(rows: Sequence[Row], measures: Sequence[Measure], conditions: Sequence[Condition]) -> list[Estimate]:
    """An estimate for each measure and condition that has rows, in their order.

    A condition is compared with the base of its own model; where there is one base alone, with that one. Rows are
    paired by id, if their prompts are the same. The order of rows plays no part. A share with values other than 0 and 1
    is a mean.
    """
    found = by_condition([_finite(row) for row in rows])
    estimates = []
    for measure in measures:
        mine = {each.name: _counted(measure, each, conditions, found) for each in conditions}
        as_kind = replace(measure, kind=_kind(measure, mine.values()))
        found_here = []
        for condition in conditions:
            if mine[condition.name]:
                estimate = _estimate(as_kind, condition.name, mine[condition.name])
                base = base_of(condition, conditions)
                if base is not None:
                    compared = compare(as_kind.kind, mine[condition.name], mine[base.name])
                    estimate = replace(estimate, against_base=compared)
                found_here.append(estimate)
        estimates += _adjusted(found_here, {each.name for each in conditions if each.is_steered})
    return estimates


def between(
    rows: Sequence[Row], measure: Measure, conditions: Sequence[Condition], mine: Condition, other: Condition
) -> Comparison:
    """How one of the conditions differs from another one, by the same rows and statistics as from the base."""
    found = by_condition([_finite(row) for row in rows])
    counted = {each.name: _counted(measure, each, conditions, found) for each in conditions}
    return compare(_kind(measure, counted.values()), counted[mine.name], counted[other.name])


def _counted(
    measure: Measure,
    condition: Condition,
    conditions: Sequence[Condition],
    found: Mapping[tuple[str, str, str], Mapping[str, Row]],
) -> Mapping[str, Row]:
    """The rows of a metric under a condition, without those that its denominator, if the base fixes it, leaves out."""
    rows = found.get((measure.task, measure.metric, condition.name), {})
    if not measure.among:
        return rows
    base = base_of(condition, conditions) or condition
    there = found.get((measure.task, measure.among, base.name), {})
    within = {identity: row for identity, row in rows.items() if identity in there and there[identity].value == 1}
    # of none it is undefined, which is an estimate too
    return within or {identity: replace(row, value=None, why=OUTSIDE) for identity, row in rows.items()}


def _finite(row: Row) -> Row:
    if row.value is None or math.isfinite(row.value):
        return row
    return replace(row, value=None, why=NOT_FINITE)


def _kind(measure: Measure, found: Iterable[Mapping[str, Row]]) -> Kind:
    graded = any(row.value not in (None, 0, 1) for rows in found for row in rows.values())
    return "mean" if measure.kind == "share" and graded else measure.kind


def base_of(condition: Condition, conditions: Sequence[Condition]) -> Condition | None:
    """The base that a condition is compared with; None for a base itself."""
    bases = [each for each in conditions if each.is_base]
    own = [each for each in bases if each.model == condition.model] or (bases if len(bases) == 1 else [])
    return None if condition.is_base or not own else own[0]


def _sums(rows: Iterable[tuple[str, Row]], kind: str) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) of each group, of the rows that have a value; for shares each row weighs 1.

    `rows` are pairs of a group and a row of it.
    """
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for group, row in sorted(rows, key=lambda pair: pair[1].id):
        if row.value is not None:
            weight = 1.0 if kind == "share" else row.weight
            top, bottom = found[group]
            found[group] = (top + weight * row.value, bottom + weight)
    return dict(sorted(found.items()))


def _estimate(measure: Measure, condition: str, rows: Mapping[str, Row]) -> Estimate:
    sums = _sums(((row.group, row) for row in rows.values()), measure.kind)
    n = sum(row.value is not None for row in rows.values())
    unscored = Counter(row.why for row in rows.values() if row.value is None and row.why != OUTSIDE)
    top, bottom = sum(each[0] for each in sums.values()), sum(each[1] for each in sums.values())
    name, interval = _interval(measure.kind, np.array(list(sums.values())).reshape(-1, 2), n)
    shown = [top / bottom if bottom else None, *(interval or (None, None))]
    if measure.kind == "perplexity":
        shown = [None if each is None else float(perplexity(each)) for each in shown]
    value, low, high = shown
    is_share = measure.kind == "share"
    return Estimate(
        measure.task,
        measure.metric,
        condition,
        value,
        low,
        high,
        interval=name,
        numerator=int(top) if is_share else None,
        denominator=int(bottom) if is_share else None,
        n=n,
        groups=len(sums),
        low_n=len(sums) < FEW,
        unscored=dict(sorted(unscored.items())),
        unfinished=sum(row.value is not None and not row.finished for row in rows.values()),
    )


def _interval(kind: str, sums: Sums, n: int) -> tuple[str, Interval | None]:
    """The kind of an estimate's interval, and the interval."""
    single = len(sums) == n
    if kind != "share":
        return ("Student" if single else "Student by group"), clustered_mean(sums)
    if single:
        return "Wilson", wilson(float(sums[:, 0].sum()), len(sums))
    return "Wilson by group", clustered_share(sums)


def _pairs(mine: Mapping[str, Row], others: Mapping[str, Row]) -> tuple[list[Pair], Mapping[str, int]]:
    """The rows of the same id and prompt on both sides, and how many were left out for which reason."""
    pairs, left_out = [], Counter(missing=0, prompt=0, unscored=0)
    for name in sorted(mine.keys() | others.keys()):
        one, other = mine.get(name), others.get(name)
        if one is None or other is None:
            left_out["missing"] += 1
        elif one.prompt != other.prompt:
            left_out["prompt"] += 1
        elif any(row.value is None and row.why != OUTSIDE for row in (one, other)):
            left_out["unscored"] += 1
        elif one.value is not None or other.value is not None:  # else outside on both sides: no row of this metric
            pairs.append((one, other))
    return pairs, dict(left_out)


def compare(kind: str, mine: Mapping[str, Row], other: Mapping[str, Row]) -> Comparison:
    """The difference of one condition's rows from those of another, the base or any, by their ids."""
    pairs, left_out = _pairs(mine, other)
    first = _sums(((other.group, one) for one, other in pairs), kind)
    second = _sums(((other.group, other) for _, other in pairs), kind)
    names = sorted(first.keys() | second.keys())
    sums = np.array([(*first.get(name, (0, 0)), *second.get(name, (0, 0))) for name in names]).reshape(-1, 4)
    moves = Counter((other.value, one.value) for one, other in pairs)
    fixed, broken = (moves[0, 1], moves[1, 0]) if kind == "share" else (None, None)
    name, found = _difference(kind, sums, pairs, fixed or 0, broken or 0)
    return Comparison(found.value, found.low, found.high, name, found.p, len(pairs), fixed, broken, left_out)


def _difference(kind: str, sums: Sums, pairs: Sequence[Pair], fixed: int, broken: int) -> tuple[str, Difference]:
    """The kind of a difference's interval, and the difference."""
    single = len(sums) == len(pairs)
    if kind != "share":
        return ("Student" if single else "Student by group"), paired_means(sums, perplexities=kind == "perplexity")
    if single and all(row.value is not None for pair in pairs for row in pair):
        return "Bonett-Price", paired_shares(fixed, broken, len(pairs))
    return ("jackknife" if single else "jackknife by group"), paired_ratios(sums)


def _adjusted(found: Sequence[Estimate], steered: Collection[str]) -> list[Estimate]:
    """The estimates of one metric, with Holm's adjustment over the conditions.

    Controls and parts of a delta are a family of their own: however many there are, they make no test of what a user
    steers by stricter.
    """
    adjusted: dict[int, float] = {}
    for wanted in (True, False):
        family = {
            i: each.against_base.p
            for i, each in enumerate(found)
            if each.against_base and each.against_base.p is not None and (each.condition in steered) == wanted
        }
        adjusted.update(zip(family, holm_adjusted(list(family.values())), strict=True))

    def with_holm(i: int, each: Estimate) -> Estimate:
        if each.against_base is None or i not in adjusted:
            return each
        compared = replace(each.against_base, p_adjusted=adjusted[i], significant=adjusted[i] <= ALPHA)
        return replace(each, against_base=compared)

    return [with_holm(i, each) for i, each in enumerate(found)]


def unscored(estimates: Sequence[Estimate], conditions: Sequence[Condition], most: float) -> list[str]:
    """A line for each task and condition where a larger share than `most` of a metric's rows failed.

    A failure is any reason but that the rule abstained, or that the answer was cut or outside: as a judge that failed.
    """
    labels = {condition.name: condition.label for condition in conditions}
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for each in estimates:
        why = {reason: count for reason, count in each.unscored.items() if reason not in (ABSTAINED, CUT)}
        rows, failed = each.n + sum(each.unscored.values()), sum(why.values())
        if failed > most * rows:
            reason = max(why, key=lambda reason: why[reason])
            place = (each.task, each.condition)
            line = (
                f"{each.task}, {labels.get(each.condition, each.condition)}: {failed} of {rows} rows of {each.metric} "
                f"have no score ({reason})"
            )
            if failed / rows > worst.get(place, (0.0, ""))[0]:  # of equal ones the task's first metric
                worst[place] = (failed / rows, line)
    return [line for _, line in worst.values()]


def mostly_abstained(estimates: Sequence[Estimate], conditions: Sequence[Condition]) -> Iterator[str]:
    """A warning that names the estimates of which the rule could not grade the larger part."""
    labels = {condition.name: condition.label for condition in conditions}
    found = []
    for each in estimates:
        abstained, rows = each.unscored.get(ABSTAINED, 0), each.n + sum(each.unscored.values())
        if abstained > rows / 2:
            found.append(f"{each.metric} of {each.task} at {labels[each.condition]} ({abstained} of {rows})")
    if found:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        yield (
            f"the rule could not grade most answers, and those never count, for {', '.join(found[:MOST_NAMED])}{more}: "
            "read them in rows.jsonl"
        )
