"""Intervals for shares."""

from scipy.stats import binomtest


def wilson(numerator: int, denominator: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of a share; None where the denominator is 0.

    >>> wilson(0, 100)  # not of zero width, unlike the normal approximation's
    (0.0, 0.0369...)
    """
    if denominator == 0:
        return None
    interval = binomtest(numerator, denominator).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
