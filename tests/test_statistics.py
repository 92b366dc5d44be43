"""Intervals against published values and scipy's, their coverage by simulation, Holm's test against the textbook's."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from wsteer.statistics import (
    Difference,
    clustered_mean,
    clustered_share,
    holm,
    holm_adjusted,
    jackknife,
    p_value,
    paired_means,
    paired_ratios,
    paired_shares,
    ratio_of_effects,
    wilson,
)

Draw = Callable[[np.random.Generator], NDArray[np.float64]]


def test_wilson_equals_the_textbook_and_scipy_and_is_never_of_zero_width() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) is None
    for right, rows in ((0, 1), (1, 1), (3, 40), (40, 40), (77, 100)):
        theirs = scipy.stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
        assert wilson(right, rows) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_holm_is_that_of_scipy_style_adjustment() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.uniform(size=6) ** 4
        order = np.argsort(p)
        adjusted = np.empty(6)
        adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(6, 0, -1)))
        assert holm(list(p)) == list(adjusted <= 0.05)
        assert holm_adjusted(list(p)) == pytest.approx(list(adjusted))
    assert p_value(1.959964) == pytest.approx(0.05, abs=1e-6)


def test_paired_shares_are_those_of_bonett_and_price_and_of_mcnemar() -> None:
    # Bonett and Price 2012 by hand: up 3/42, down 6/42, so -3/42 ± 1.96 √((9/42 - (3/42)²) / 42)
    found = paired_shares(2, 5, 40)
    half = 1.959964 * ((9 / 42 - (3 / 42) ** 2) / 42) ** 0.5
    assert found == Difference(
        pytest.approx(-3 / 40), pytest.approx(-3 / 42 - half), pytest.approx(-3 / 42 + half), pytest.approx(0.453125)
    )  # p: 2 · (1 + 7 + 21) / 2⁷
    assert paired_shares(3, 3, 3).high == 1.0  # never outside of what a difference of shares can be
    assert paired_shares(0, 0, 0) == Difference(None, None, None, None)


def test_paired_means_are_those_of_students_paired_t() -> None:
    generator = np.random.default_rng(1)
    base, other = generator.normal(size=(2, 17))
    found = paired_means(np.stack([other, np.ones(17), base, np.ones(17)], 1))
    test = scipy.stats.ttest_rel(other, base)
    theirs = test.confidence_interval()
    assert (found.value, found.p) == pytest.approx(((other - base).mean(), test.pvalue))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    alone = scipy.stats.ttest_1samp(base, 0).confidence_interval()
    assert clustered_mean(np.stack([base, np.ones(17)], 1)) == pytest.approx((alone.low, alone.high))


def test_the_jackknife_of_a_ratio_is_close_to_its_linearised_error() -> None:
    generator = np.random.default_rng(2)
    sums = np.stack([generator.poisson(9, 400), generator.poisson(20, 400) + 1.0], 1)
    ratio, error = jackknife(lambda each: each[..., 0] / each[..., 1], sums)
    residuals = sums[:, 0] - ratio * sums[:, 1]
    assert error == pytest.approx((residuals**2).sum() ** 0.5 / sums[:, 1].sum(), rel=0.01)


def test_intervals_of_pairs_that_all_agree_have_a_width() -> None:
    same = np.array([[1.0, 1, 1, 1], [0, 1, 0, 1]] * 20)
    ratios = paired_ratios(same)
    assert ratios.low == pytest.approx(-ratios.high) and 0.05 < ratios.high < 0.1
    means = paired_means(same)
    assert means.low == pytest.approx(-means.high) and 0.05 < means.high < 0.1
    assert means.p == ratios.p == 1.0
    up_by_one = paired_means(np.array([[2.0, 1, 1, 1], [3, 1, 2, 1], [4, 1, 3, 1], [5, 1, 4, 1]]))
    assert up_by_one.value == 1 and up_by_one.low < 1 < up_by_one.high


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_zero() -> None:
    generator = np.random.default_rng(5)
    found = []
    for _ in range(200):
        other, base = generator.binomial(1, 0.5, (2, 30)) * (generator.random(30) < 0.8)
        ratios = paired_ratios(np.stack([other, base | other, base, np.ones(30)], 1).astype(float))
        means = paired_means(np.stack([other + 0.4, np.ones(30), 2 * base, np.ones(30)], 1).astype(float))
        found += [ratios, means]
    assert all((each.p < 0.05) == (not each.low <= 0 <= each.high) for each in found)
    assert 20 < sum(each.p < 0.05 for each in found) < 380


def test_what_one_group_or_constant_values_cannot_tell_is_undefined() -> None:
    one = np.array([[1.0, 1, 0, 1]])
    assert paired_ratios(one) == paired_means(one) == Difference(1.0, None, None, None)
    assert clustered_share(np.array([[3.0, 5]])) is None and clustered_mean(np.array([[3.0, 5]])) is None
    assert clustered_mean(np.array([[0.1, 1]] * 7)) is None  # nothing tells how far another value may be
    assert paired_means(np.array([[4.0, 1, 4, 1]] * 7)) == Difference(0.0, None, None, 1.0)
    nothing = np.array([[0.0, 0, 1, 1], [0, 0, 0, 1]])
    assert paired_ratios(nothing) == Difference(None, None, None, None)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("perplexities", [False, True])
def test_paired_means_of_groups_without_a_partner_are_numbers_or_unknown(perplexities: bool) -> None:
    """As where an answer is too short to have n-grams under one condition alone."""
    found = paired_means(np.array([[0.0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]]), perplexities)
    assert found == Difference(0.0, None, None, 1.0)  # nothing varies
    found = paired_means(np.array([[0.5, 1, 0.5, 1], [0.2, 1, 0.2, 1], [0, 1, 0, 0]]), perplexities)
    assert found.low is not None and found.value is not None and found.high is not None
    assert found.low < found.value < found.high
    for base in ([0.5, 0, 0], [0, 0, 0.5]):  # without its one group the base has no mean
        sums = np.array([[1.0, 1, each, float(each > 0)] for each in base])
        assert paired_means(sums, perplexities).low is None


@pytest.mark.filterwarnings("error")
def test_perplexities_beyond_all_bounds_have_no_interval() -> None:
    sums = np.array([[400.0 + i, 1, 350 - i, 1] for i in range(8)])
    assert paired_means(sums, perplexities=True) == Difference(0.0, None, None, None)


def test_shares_in_groups_are_wider_than_of_as_many_single_rows_and_never_of_zero_width() -> None:
    grouped = clustered_share(np.array([[20.0, 20]] * 2 + [[0.0, 20]] * 6))
    low, high = wilson(40, 160)
    assert grouped[0] < low and grouped[1] > high + 0.2
    none = clustered_share(np.array([[0.0, 20]] * 8))
    assert none[0] == 0 and none[1] > wilson(0, 160)[1]


# Coverage: the share of samples of which the interval holds the true value. Seeded, so the same in every run.


def coverage(draw: Draw, interval: Callable[[NDArray[np.float64]], tuple], true: float, samples: int = 1000) -> float:
    generator = np.random.default_rng(13)
    found = (interval(draw(generator)) for _ in range(samples))
    return sum(low <= true <= high for low, high in found) / samples


def ends(found: Difference) -> tuple[float | None, float | None]:
    return found.low, found.high


def test_wilson_covers_94_percent_on_average_at_40_rows_and_never_less_than_91() -> None:
    rights = np.arange(41)
    low, high = np.array([wilson(int(right), 40) for right in rights]).T
    shares = np.arange(0.005, 0.5, 0.005)
    exact = [scipy.stats.binom.pmf(rights, 40, share)[(low <= share) & (share <= high)].sum() for share in shares]
    assert np.mean(exact) > 0.945 and min(exact) > 0.91


def single_pairs(n: int, up: float, down: float) -> Draw:
    """Pairs of 0/1 values, [n, 4]: value and 1 under the condition, then under the base."""

    def draw(generator: np.random.Generator) -> NDArray[np.float64]:
        move = generator.choice([0, 1, 2], size=n, p=[1 - up - down, up, down])
        kept = generator.random(n) < 0.6
        other, base = np.where(move == 0, kept, move == 1), np.where(move == 0, kept, move == 2)
        return np.stack([other, np.ones(n), base, np.ones(n)], 1).astype(float)

    return draw


FEW = ((40, 0.02, 0.05), (40, 0.1, 0.1), (40, 0.3, 0.05), (100, 0.01, 0.03), (24, 0.5, 0.02))


once = cache(paired_shares)  # the same few counts come again and again


def shares_of(sums: NDArray[np.float64]) -> tuple[float | None, float | None]:
    fixed, broken = (sums[:, 0] > sums[:, 2]).sum(), (sums[:, 0] < sums[:, 2]).sum()
    return ends(once(int(fixed), int(broken), len(sums)))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "up", "down"), FEW)
def test_paired_shares_cover_94_percent_with_few_discordant_pairs(n: int, up: float, down: float) -> None:
    assert coverage(single_pairs(n, up, down), shares_of, up - down) >= 0.94
    assert coverage(single_pairs(n, up, down), lambda sums: ends(paired_ratios(sums)), up - down) >= 0.94


def test_a_plain_bootstrap_would_not() -> None:
    def bootstrap(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        change = sums[:, 0] - sums[:, 2]
        counts = np.random.default_rng(0).multinomial(40, [(change == v).mean() for v in (1, -1, 0)], size=300)
        return np.quantile((counts[:, 0] - counts[:, 1]) / 40, [0.025, 0.975])

    assert coverage(single_pairs(40, 0.02, 0.05), bootstrap, -0.03, samples=500) < 0.9


# Rows as of non_sycophancy: wrong without cue, right there alone, right under all prompts; under the base (first index)
# and under the condition (second).
MOVING = {
    "few changes": [[18, 1, 1], [1, 50, 2], [1, 3, 23]],
    "very few changes": [[20, 0.5, 0], [0.5, 70, 1], [0, 2.5, 5]],
    "high accuracy": [[5, 1, 1], [1, 20, 1], [1, 3, 67]],
    "many changes": [[15, 3, 2], [4, 30, 15], [2, 4, 25]],
    "accuracy breaks": [[20, 3, 2], [30, 10, 10], [15, 5, 15]],
}


@pytest.mark.slow
@pytest.mark.parametrize("n", [24, 40, 100])
@pytest.mark.parametrize("kind", MOVING)
def test_differences_of_shares_with_a_moving_denominator_cover_94_percent(kind: str, n: int) -> None:
    table = np.array(MOVING[kind], float)
    table /= table.sum()
    base, other = table.sum(1), table.sum(0)

    def draw(generator: np.random.Generator) -> NDArray[np.float64]:
        first, second = np.divmod(generator.choice(9, size=n, p=table.ravel()), 3)
        return np.stack([second == 2, second > 0, first == 2, first > 0], 1).astype(float)

    true = other[2] / other[1:].sum() - base[2] / base[1:].sum()
    assert coverage(draw, lambda sums: ends(paired_ratios(sums)), true) >= 0.94
    # and under one condition alone, given the denominator, it is Wilson's
    alone = coverage(draw, lambda sums: wilson(sums[:, 2].sum(), sums[:, 3].sum()), base[2] / base[1:].sum())
    assert alone >= 0.93


def questions(groups: int, samples: int, share: float, correlation: float, up: float, spread: float) -> Draw:
    """Samples of questions with shares of their own, moved by `up` ± `spread` under the condition."""
    a, b = (1 / correlation - 1) * share, (1 / correlation - 1) * (1 - share)

    def draw(generator: np.random.Generator, groups: int = groups) -> NDArray[np.float64]:
        base = generator.beta(a, b, groups)
        other = np.clip(base + up + spread * generator.normal(size=groups), 0, 1)
        both = [generator.binomial(samples, each) for each in (other, base)]
        every = np.full(groups, samples)
        return np.stack([both[0], every, both[1], every], 1).astype(float)

    return draw


CLUSTERS = [
    *((0.05, 0.3, 0.0, 0.01), (0.05, 0.3, 0.05, 0.05), (0.2, 0.3, 0.1, 0.2)),
    *((0.5, 0.3, 0.2, 0.2), (0.5, 0.6, 0.0, 0.0), (0.02, 0.5, 0.02, 0.0), (0.2, 0.001, 0.0, 0.0)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "samples"), [(8, 20), (40, 5)])
@pytest.mark.parametrize(("share", "correlation", "up", "spread"), CLUSTERS)
def test_samples_of_questions_cover_94_percent(
    groups: int, samples: int, share: float, correlation: float, up: float, spread: float
) -> None:
    draw = questions(groups, samples, share, correlation, up, spread)
    everybody = questions(400_000, samples, share, correlation, up, spread)(np.random.default_rng(3)).sum(0)
    true = (everybody[0] - everybody[2]) / everybody[1]
    assert coverage(draw, lambda sums: ends(paired_ratios(sums)), true) >= 0.94
    assert coverage(draw, lambda sums: clustered_share(sums[:, 2:]), share) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "samples"), [(8, 20), (40, 5)])
def test_samples_that_are_copies_of_each_other_count_as_one(groups: int, samples: int) -> None:
    draw = single_pairs(groups, 0.02, 0.05)
    assert coverage(lambda g: samples * draw(g), lambda sums: ends(paired_ratios(sums)), -0.03) >= 0.94
    assert coverage(lambda g: samples * draw(g)[:, 2:], clustered_share, 0.93 * 0.6 + 0.05) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "up", "down", "steps"),
    [(40, 0.02, 0.05, (1,)), (40, 0.02, 0.05, (1, 2, 4)), (40, 0.1, 0.1, (1, 2)), (40, 0.3, 0.3, (1, 2, 4))],
)
def test_paired_means_of_graded_answers_cover_94_percent(
    n: int, up: float, down: float, steps: tuple[int, ...]
) -> None:
    def draw(generator: np.random.Generator) -> NDArray[np.float64]:
        change = generator.choice([1, -1, 0], size=n, p=[up, down, 1 - up - down]) * generator.choice(steps, size=n)
        base = generator.integers(1, 6, n)
        return np.stack([base + change, np.ones(n), base, np.ones(n)], 1).astype(float)

    assert coverage(draw, lambda sums: ends(paired_means(sums)), np.mean(steps) * (up - down)) >= 0.94


def texts(n: int, jumps: float) -> Draw:
    """Texts of different lengths: nats and tokens under the condition, then under the base.

    The condition costs each text 0.15 nats a token or so, and a share `jumps` of them much more.
    """

    def draw(generator: np.random.Generator) -> NDArray[np.float64]:
        tokens = np.ceil(generator.lognormal(4, 0.5, n))
        base = generator.normal(2.5, 0.8, n) + generator.exponential(0.4, n)
        other = base + generator.normal(0.15, 0.1, n) + generator.exponential(0.3, n) * (generator.random(n) < jumps)
        return np.stack([other * tokens, tokens, base * tokens, tokens], 1)

    return draw


@pytest.mark.slow
@pytest.mark.parametrize(("jumps", "least"), [(0.0, 0.93), (0.3, 0.90)])  # skewed: 94% is not reached
def test_perplexities_and_their_differences_cover_the_truth(jumps: float, least: float) -> None:
    everybody = texts(2_000_000, jumps)(np.random.default_rng(3)).sum(0)
    other, base = everybody[0] / everybody[1], everybody[2] / everybody[3]
    assert coverage(texts(40, jumps), lambda sums: clustered_mean(sums[:, 2:]), base) >= 0.94
    difference = np.exp(other) - np.exp(base)
    assert coverage(texts(40, jumps), lambda sums: ends(paired_means(sums, perplexities=True)), difference) >= least


def test_a_ratio_of_effects_is_undefined_where_the_wholes_effect_is_not_told_from_none() -> None:
    none = np.zeros((40, 2))
    assert ratio_of_effects(none) is None and ratio_of_effects(np.ones((1, 2))) is None
    both_ways = np.stack([np.ones(40), np.tile([1.0, -1.0], 20)], axis=1)
    assert ratio_of_effects(both_ways) is None
    value, low, high = ratio_of_effects(np.stack([np.zeros(40), np.ones(40)], axis=1))
    assert value == 0 and low < 0 < high < 0.1


def test_a_ratio_of_effects_of_many_groups_is_fiellers() -> None:
    generator = np.random.default_rng(0)
    whole = generator.normal(1, 1, 5000)
    part = 0.5 * whole + generator.normal(0, 1, 5000)
    value, low, high = ratio_of_effects(np.stack([part, whole], axis=1))
    error = np.std(part - value * whole) / np.sqrt(5000) / whole.mean()  # the delta method, which it tends to
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(("groups", "up", "down"), [(24, 0.5, 0.0), (40, 0.3, 0.02), (40, 0.8, 0.05), (100, 0.1, 0.0)])
def test_coverage_of_ratios_of_effects(groups: int, up: float, down: float, keep: float) -> None:
    """The part does a share of what the whole does, and changes 2% of the other rows either way."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        drawn = generator.random(groups)
        whole = np.where(drawn < up, 1.0, np.where(drawn < up + down, -1.0, 0.0))
        part = np.where(generator.random(groups) < keep, whole, 0.0)
        other = generator.random(groups)
        noise = np.where(other < 0.02, 1.0, np.where(other > 0.98, -1.0, 0.0))
        found = ratio_of_effects(np.stack([np.where(whole == 0, noise, part), whole], axis=1))
        if found is not None:
            covered.append(found[1] <= keep <= found[2])
    assert len(covered) > 500 and np.mean(covered) >= 0.94
