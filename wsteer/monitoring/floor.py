"""The noise floor of cosines: how far above it each one stands, and which pass a test of many at once."""

import math
from collections.abc import Sequence

ALPHA = 0.05  # the chance that any of the cosines said to stand above the floor is noise
# likeness of A's beyond chance, as a share of what is possible beyond chance
SHARED, INDEPENDENT = 0.5, 0.1


def p_value(z: float) -> float:
    """The chance that noise lies this many standard deviations from its mean or further: two-sided, normal.

    A cosine of noise is a sum over many entries, so that it is close to normal.

    >>> round(p_value(-1.96), 3)
    0.05
    """
    return math.erfc(abs(z) / math.sqrt(2))


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several hypotheses are rejected so that the chance of any false rejection is at most `alpha`.

    Holm (1979): the k-th smallest of m p-values is compared with alpha / (m - k + 1), until one fails.

    >>> holm([0.04, 0.01, 0.02])
    [True, True, True]
    >>> holm([0.04, 0.01, 0.03])
    [False, True, False]
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def initialisation(likeness: float, chance: float) -> str:
    """Whether two LoRA runs started from the same A, told by the likeness of their trained A's (see `PairSums`).

    Trained A's stay near the initial ones, so those of one seed are almost alike and others by chance alone.

    >>> initialisation(0.95, 0.05), initialisation(0.06, 0.05), initialisation(0.4, 0.05)
    ('shared', 'independent', 'partly shared')
    """
    beyond = (likeness - chance) / (1 - chance) if chance < 1 else 1.0
    return "shared" if beyond > SHARED else "independent" if beyond < INDEPENDENT else "partly shared"
