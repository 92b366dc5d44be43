"""Intervals and tests: shares, means, paired differences, ranks, rows in groups, many hypotheses.

The coverage of each interval is simulated in tests/test_statistics.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CONFIDENCE = 0.95  # the level of all intervals
ALPHA = 0.05  # the chance that any of the cosines reported above the floor, or of the differences, is noise
SMALL = 1e-9  # less than this share of a number is rounding
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
Sums = NDArray[np.float64]  # one row a group; columns are sums over the rows of the group
Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """A paired difference, its 95% interval and two-sided p; None where the pairs do not tell."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


def wilson(numerator: float, denominator: float, z: float = Z) -> Interval | None:
    """Wilson's 95% score interval of a share; None where the denominator is 0.

    >>> wilson(0, 100)  # not of zero width, unlike the normal approximation's
    (0.0, 0.0369...)
    """
    if denominator == 0:
        return None
    share, scale = numerator / denominator, 1 + z * z / denominator
    middle = (share + z * z / (2 * denominator)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / denominator + z * z / (4 * denominator**2))
    return (max(0.0, middle - half) if numerator else 0.0), (min(1.0, middle + half) if share < 1 else 1.0)


def jackknife(statistic: Callable[[Sums], NDArray[np.float64]], sums: Sums) -> tuple[float, float]:
    """A statistic of column sums, and its standard error over independent groups: each left out once.

    `sums` is [groups, columns]; `statistic` maps [..., columns] to [...]. For a mean of single rows it is s/√n, as in
    textbooks (Efron and Stein 1981).
    """
    total = sums.sum(0)
    without = statistic(total - sums)
    error = math.sqrt((len(sums) - 1) / len(sums) * float(((without - without.mean()) ** 2).sum()))
    return float(statistic(total)), error


def clustered_share(sums: Sums) -> Interval | None:
    """The 95% interval of a share whose rows come in groups, as samples of a question; [groups, 2]: right, all.

    Wilson's with the number of independent rows that would have the jackknife's error, and Student's quantile for the
    groups (Korn and Graubard 1998). Two pseudo-groups of half the average size, all right and all wrong, keep the error
    from vanishing where few groups differ. Coverage at 8 groups of 20 is 96% or more, where a bootstrap has 69 to 90%;
    at 40 groups of 5 it is 94% or more, but 92% for a share of 5% with a correlation of 0.6 inside groups.
    """
    sums = sums[sums[:, 1] > 0]
    rows = float(sums[:, 1].sum())
    if len(sums) < 2:
        return None
    half = rows / len(sums) / 2
    share, error = jackknife(_ratio, np.vstack([sums, [[half, half], [0, half]]]))
    effective = min(rows, share * (1 - share) / error**2)
    return wilson(float(sums[:, 0].sum()) / rows * effective, effective, _student(len(sums) - 1))


def clustered_mean(sums: Sums) -> Interval | None:
    """Student's 95% interval of a weighted mean; [groups, 2]: weighted sum, weight. None where nothing varies."""
    if len(sums) < 2:
        return None
    mean, error = jackknife(_ratio, sums)
    half = _student(len(sums) - 1) * error
    return (mean - half, mean + half) if half > SMALL * abs(mean) else None


def paired_shares(fixed: int, broken: int, pairs: int) -> Difference:
    """The difference of two shares of the same rows: `fixed` went from 0 to 1, `broken` from 1 to 0.

    Bonett and Price's interval (2012): one pair more of either kind, then the normal approximation. It covers 97% and
    more where few pairs differ, where a bootstrap has 86%. p is the exact McNemar test's.

    >>> paired_shares(0, 0, 98)  # not of zero width
    Difference(value=0.0, low=-0.0277..., high=0.0277..., p=1.0)
    """
    if pairs == 0:
        return Difference(None, None, None, None)
    from scipy.stats import binomtest  # noqa: PLC0415  most of a second, which only `eval` needs

    up, down = (fixed + 1) / (pairs + 2), (broken + 1) / (pairs + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (pairs + 2))
    p = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return Difference((fixed - broken) / pairs, max(-1.0, up - down - half), min(1.0, up - down + half), p)


def paired_ratios(sums: Sums) -> Difference:
    """The difference of two shares whose denominators may differ, or whose rows come in groups.

    `sums` is [groups, 4]: numerator and denominator under the one condition, then under the base. Bonett and Price's
    idea, in groups: one more that was fixed and one that was broken, each as large as the average change of a group
    that changed; of a whole group if none did. Then Student's t with the jackknife's error. Coverage is 95% or more
    from 24 rows on, where a bootstrap has 50 to 94%.
    """
    total = sums.sum(0)
    if not (total[1] and total[3]):
        return Difference(None, None, None, None)
    value = float(_difference(total))
    if len(sums) < 2:
        return Difference(value, None, None, None)
    changes = np.abs(sums[:, 0] - sums[:, 2])
    size = float(changes[changes > 0].mean() if changes.any() else sums[:, [1, 3]].max(1).mean())
    middle, error = jackknife(_difference, np.vstack([sums, [[size, size, 0, size], [0, size, size, size]]]))
    half = _student(len(sums) - 1) * error
    return Difference(value, max(-1.0, middle - half), min(1.0, middle + half), _two_sided(middle / error, len(sums)))


def paired_means(sums: Sums, perplexities: bool = False) -> Difference:
    """The difference of two weighted means of the same rows, or of two perplexities: exp of the means.

    `sums` is [groups, 4]: weighted sum and weight under the one condition, then under the base. Student's paired t, by
    the jackknife. Where fewer than half of the groups changed, or all by the same, two more are added that leave the
    difference as it is: up and down by the average change, or by the range of all values if none changed. It covers 94%
    and more, also where few change. Of perplexities it is 93% at 40 rows, and 90% where a few rows change far more than
    the others.
    """
    total = sums.sum(0)
    if not (total[1] and total[3]):
        return Difference(None, None, None, None)
    statistic = _difference_of_perplexities if perplexities else _difference
    groups, value = len(sums), float(statistic(total))
    if np.count_nonzero(sums[:, [1, 3]], axis=0).min() < 2:  # a side would have no weight without its one group
        return Difference(value, None, None, None)
    changes = sums[:, 0] - sums[:, 2]
    if np.count_nonzero(changes) < groups / 2 or np.ptp(changes) <= SMALL * np.abs(changes).max():
        change = float(np.abs(changes[changes != 0]).mean() if changes.any() else _range(sums))
        if change == 0:
            return Difference(value, None, None, 1.0)
        middle, step = sums.mean(0), np.array([change, 0, 0, 0])
        sums = np.vstack([sums, middle + step, middle - step])
    _, error = jackknife(statistic, sums)
    if error == 0:  # of perplexities beyond all bounds
        return Difference(value, None, None, None)
    half = _student(groups - 1) * error
    return Difference(value, value - half, value + half, _two_sided(value / error, groups))


def ratio_of_effects(sums: Sums) -> tuple[float, float, float] | None:
    """A part's effect / the whole's, with its 95% interval; None where the whole's effect cannot be told from none.

    `sums` is [groups, 2]: the change by the part and by the whole, both against the base, summed over the group's rows.
    Fieller's interval (1954) with Student's t, and two groups more, in which the part has the average change up and
    down. It covers 95% and more from 24 rows on, also where the part changes few rows or does all that the whole does,
    where without the two it has 20 to 80%.
    """
    groups = len(sums)
    largest = np.abs(sums).max(axis=1) if groups else np.zeros(0)
    if groups < 2 or not largest.any():
        return None
    size = float(largest[largest > 0].mean())
    more = np.vstack([sums, [[size, 0.0], [-size, 0.0]]])
    part, whole = sums.sum(0)
    noise = _student(groups - 1) ** 2 * len(more) * np.cov(more.T)  # of the sums
    square, half, rest = whole**2 - noise[1, 1], part * whole - noise[0, 1], part**2 - noise[0, 0]
    if square <= SMALL * whole**2:
        return None
    root = math.sqrt(max(0.0, half**2 - square * rest))
    return float(part / whole), float((half - root) / square), float((half + root) / square)


def _ratio(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _difference(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(_ratio(sums) - _ratio(sums[..., 2:]))


def _difference_of_perplexities(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(perplexity(_ratio(sums)) - perplexity(_ratio(sums[..., 2:])))


def perplexity(nats: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """exp of nats per token, at most e^300, of which squares are still numbers."""
    return np.asarray(np.exp(np.minimum(nats, 300.0)))


def _range(sums: Sums) -> float:
    """How far the groups' means lie apart, under both conditions, times the average weight of a group."""
    sides = np.vstack([sums[:, :2], sums[:, 2:]])
    return float(np.ptp(_ratio(sides[sides[:, 1] > 0])) * sums[:, 1].mean())


def _student(freedom: int) -> float:
    """Student's quantile of the level of all intervals."""
    from scipy.stats import t as student  # noqa: PLC0415  most of a second, which few commands need

    return float(student.ppf((1 + CONFIDENCE) / 2, freedom))


def _two_sided(t: float, groups: int) -> float:
    from scipy.stats import t as student  # noqa: PLC0415  most of a second, which few commands need

    return float(2 * student.sf(abs(t), groups - 1))


def p_value(z: float) -> float:
    """The chance that noise is at least this many standard deviations from its mean: two-sided, normal.

    A cosine of noise is a sum over many entries, so its distribution is close to normal.

    >>> round(p_value(-1.96), 3)
    0.05
    """
    return math.erfc(abs(z) / math.sqrt(2))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): each at most `ALPHA` exactly where `holm` rejects.

    >>> holm_adjusted([0.25, 0.125, 0.5])
    [0.5, 0.375, 0.5]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = largest
    return adjusted


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which of several hypotheses are rejected, with a chance of at most `ALPHA` of any false rejection.

    >>> holm([0.04, 0.01, 0.02])
    [True, True, True]
    >>> holm([0.04, 0.01, 0.03])
    [False, True, False]
    """
    return [p <= ALPHA for p in holm_adjusted(p_values)]


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ranks of values [n], from 1; equal ones share the mean of theirs.

    >>> ranks(np.array([0.5, 0.1, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    from scipy.stats import rankdata  # noqa: PLC0415  most of a second, which few commands need

    return np.asarray(rankdata(values), dtype=np.float64)


def interval(values: Tensor) -> float | None:
    """Half of Student's 95% interval of the mean of independent values [n]; None for a single one.

    >>> import torch
    >>> round(interval(torch.tensor([1.0, 2.0, 3.0, 4.0])), 4)
    2.0543
    """
    n = len(values)
    return None if n < 2 else _student(n - 1) * float(values.double().std()) / math.sqrt(n)
