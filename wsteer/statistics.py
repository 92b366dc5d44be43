"""Intervals of shares and of means, and tests of many hypotheses at once."""

import math
from collections.abc import Sequence

from torch import Tensor

CONFIDENCE = 0.95  # the level of all intervals
ALPHA = 0.05  # the chance that any of the cosines reported above the floor is noise


def wilson(numerator: int, denominator: int) -> tuple[float, float] | None:
    """Wilson's 95% score interval of a share; None where the denominator is 0.

    >>> wilson(0, 100)  # not of zero width, unlike the normal approximation's
    (0.0, 0.0369...)
    """
    if denominator == 0:
        return None
    from scipy.stats import binomtest  # noqa: PLC0415  most of a second, which only `eval` needs

    interval = binomtest(numerator, denominator).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def p_value(z: float) -> float:
    """The chance that noise is at least this many standard deviations from its mean: two-sided, normal.

    A cosine of noise is a sum over many entries, so its distribution is close to normal.

    >>> round(p_value(-1.96), 3)
    0.05
    """
    return math.erfc(abs(z) / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which of several hypotheses are rejected, with a chance of at most `ALPHA` of any false rejection.

    Holm (1979): the k-th smallest of m p-values is compared with ALPHA / (m - k + 1), until one fails.

    >>> holm([0.04, 0.01, 0.02])
    [True, True, True]
    >>> holm([0.04, 0.01, 0.03])
    [False, True, False]
    """
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > ALPHA / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def interval(values: Tensor) -> float | None:
    """Half of Student's 95% interval of the mean of independent values [n]; None for a single one.

    >>> import torch
    >>> round(interval(torch.tensor([1.0, 2.0, 3.0, 4.0])), 4)
    2.0543
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.stats import t as student  # noqa: PLC0415  most of a second, which only projections need

    return float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(values.double().std()) / math.sqrt(n)
