"""Rows -> estimates: values and intervals by kind, pairs counted honestly, what was left without a score."""

import random
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import ABSTAINED, CUT, OUTSIDE, Measure, Row
from wsteer.evaluation.summary import Estimate, between, mostly_abstained, summarise, unscored
from wsteer.statistics import holm_adjusted, paired_ratios, paired_shares, wilson

BASE = Condition("base")
UP, DOWN = Condition("w", 1.0, delta="d"), Condition("w", -1.0, delta="d")
ACCURACY = Measure("facts", "accuracy", "share", "higher", "capability")


def rows(condition: Condition, values: list[float | str | None], measure: Measure = ACCURACY, **fields) -> list[Row]:
    """A row for each value, with ids in order; a text is why there is no value, None leaves the row out."""
    return [
        Row(measure.task, measure.metric, condition.name, f"{i:03}", None, value, **fields)
        if isinstance(value, str)
        else Row(measure.task, measure.metric, condition.name, f"{i:03}", float(value), **fields)
        for i, value in enumerate(values)
        if value is not None
    ]


def only(estimates: list[Estimate], condition: Condition) -> Estimate:
    (found,) = [each for each in estimates if each.condition == condition.name]
    return found


def test_a_share_has_wilsons_interval_and_bonett_and_prices_difference() -> None:
    base, up = [1] * 30 + [0] * 10, [1] * 28 + [0] * 2 + [1] * 5 + [0] * 5
    found = summarise(rows(BASE, base) + rows(UP, up), [ACCURACY], [BASE, UP])
    assert [each.condition for each in found] == [BASE.name, UP.name]
    assert found[0].against_base is None
    assert (found[0].value, found[0].low, found[0].high) == (0.75, *wilson(30, 40))
    assert (found[1].numerator, found[1].denominator, found[1].n, found[1].low_n) == (33, 40, 40, False)
    pair = paired_shares(5, 2, 40)
    compared = found[1].against_base
    assert (compared.difference, compared.low, compared.high, compared.p) == (pair.value, pair.low, pair.high, pair.p)
    assert (compared.fixed, compared.broken, compared.pairs, compared.interval) == (5, 2, 40, "Bonett-Price")
    assert (found[0].interval, compared.left_out) == ("Wilson", {"missing": 0, "prompt": 0, "unscored": 0})


def test_a_moving_denominator_is_paired_over_all_rows_of_either_side() -> None:
    base = [1, 1, 0, 0, 0, OUTSIDE, OUTSIDE, OUTSIDE]
    up = [1, 0, 1, OUTSIDE, 0, 1, OUTSIDE, 0]
    found = only(summarise(rows(BASE, base) + rows(UP, up), [ACCURACY], [BASE, UP]), UP)
    seven = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]])
    expected = paired_ratios(seven.astype(float))
    compared = found.against_base
    assert compared.difference == pytest.approx(3 / 6 - 2 / 5) and compared.interval == "jackknife"
    assert (compared.low, compared.high, compared.p) == (expected.low, expected.high, expected.p)
    assert (compared.fixed, compared.broken, compared.pairs, compared.left_out["unscored"]) == (1, 1, 7, 0)
    assert (found.numerator, found.denominator, found.low_n, found.unscored) == (3, 6, True, {})


def test_a_denominator_that_the_base_fixes_is_the_same_under_every_condition() -> None:
    kept = replace(ACCURACY, metric="kept", among="accuracy")
    right = rows(BASE, [1, 1, 1, 0, ABSTAINED]) + rows(UP, [0, 1, 1, 1, 1])
    values = rows(BASE, [1, 1, 0, 1, 1], kept) + rows(UP, [0, 0, 1, 1, 1], kept)
    found = [each for each in summarise(right + values, [ACCURACY, kept], [BASE, UP]) if each.metric == "kept"]
    assert [(each.numerator, each.denominator) for each in found] == [(2, 3), (1, 3)]
    compared = found[1].against_base
    assert (compared.fixed, compared.broken, compared.pairs, compared.interval) == (1, 2, 3, "Bonett-Price")


def test_nothing_is_in_a_denominator_of_a_base_that_has_nothing_right() -> None:
    kept = replace(ACCURACY, metric="kept", among="accuracy")
    found = summarise(rows(BASE, [0, 0]) + rows(UP, [1, 1]) + rows(UP, [1, 1], kept), [ACCURACY, kept], [BASE, UP])
    (kept_up,) = [each for each in found if each.metric == "kept"]
    assert (kept_up.value, kept_up.numerator, kept_up.denominator) == (None, 0, 0)


def test_an_empty_denominator_is_undefined_and_not_zero() -> None:
    found = only(summarise(rows(BASE, [1, 0]) + rows(UP, [OUTSIDE, OUTSIDE]), [ACCURACY], [BASE, UP]), UP)
    assert (found.value, found.low, found.high, found.bounds) == (None, None, None, None)
    assert (found.numerator, found.denominator, found.low_n) == (0, 0, True)
    assert (found.against_base.difference, found.against_base.p, found.against_base.significant) == (None, None, False)


def test_rows_without_a_score_or_partner_or_of_another_prompt_are_left_out_and_counted() -> None:
    base = rows(BASE, [1, 1, 0, 0, 1, ABSTAINED], prompt="a")
    up = rows(UP, [0, 1, ABSTAINED, CUT, None, 1], prompt="a")
    up[1] = replace(up[1], prompt="b")
    up.append(replace(up[0], id="other", value=None, why="failed: no judge"))
    found = only(summarise(base + up, [ACCURACY], [BASE, UP]), UP)
    assert found.unscored == {ABSTAINED: 1, CUT: 1, "failed: no judge": 1} and found.n == found.denominator == 3
    assert found.against_base.left_out == {"missing": 2, "prompt": 1, "unscored": 3}
    assert (found.against_base.pairs, found.against_base.broken) == (1, 1)


def test_scored_answers_that_were_cut_are_counted_too() -> None:
    found = rows(UP, [1, 0, CUT])
    found = [replace(found[0], finished=False), found[1], replace(found[2], finished=False)]
    (estimate,) = summarise(found, [ACCURACY], [UP])
    assert (estimate.unfinished, estimate.unscored, estimate.numerator) == (1, {CUT: 1}, 1)
    assert estimate.as_line()["unfinished"] == 1


def test_a_number_that_is_not_finite_is_a_failure() -> None:
    found = only(summarise(rows(UP, [1.5, float("nan"), float("inf")]), [ACCURACY], [UP]), UP)
    assert (found.value, found.n, found.unscored) == (1.5, 1, {"failed: not a finite number": 2})


def test_means_have_students_intervals_and_shares_of_graded_values_are_means() -> None:
    base, up = [1.0, 2.5, 4.0, 3.0, 5.0], [2.0, 3.5, 4.5, 2.0, 6.5]
    graded = Measure("judge", "score", "mean")
    found = only(summarise(rows(BASE, base, graded) + rows(UP, up, graded), [graded], [BASE, UP]), UP)
    test = scipy.stats.ttest_rel(up, base)
    theirs = test.confidence_interval()
    assert (found.against_base.low, found.against_base.high) == pytest.approx((theirs.low, theirs.high))
    assert found.against_base.p == pytest.approx(test.pvalue) and found.against_base.fixed is None
    alone = scipy.stats.ttest_1samp(up, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((3.7, alone.low, alone.high))
    assert (found.interval, found.numerator, found.denominator) == ("Student", None, None)
    halves = only(summarise(rows(UP, [0, 0.5, 1]), [ACCURACY], [UP]), UP)
    assert (halves.value, halves.interval) == (0.5, "Student")


def test_a_perplexity_is_exp_of_the_weighted_mean() -> None:
    measure = Measure("text", "perplexity", "perplexity", "lower")

    def texts(condition: Condition, nats: list[float]) -> list[Row]:
        found = rows(condition, nats, measure)
        return [replace(row, weight=10.0 * (i + 1)) for i, row in enumerate(found)]

    nats, shift = [2.0, 2.5, 3.0, 1.0], 0.1
    both = texts(BASE, nats) + texts(UP, [each + shift * i for i, each in enumerate(nats, 1)])
    found = summarise(both, [measure], [BASE, UP])
    before = np.exp(np.average(nats, weights=[1, 2, 3, 4]))
    after = np.exp(np.average(np.add(nats, [0.1, 0.2, 0.3, 0.4]), weights=[1, 2, 3, 4]))
    assert (found[0].value, found[1].value) == pytest.approx((before, after))
    assert found[1].against_base.difference == pytest.approx(after - before)
    assert found[0].low < before < found[0].high and found[0].low * found[0].high == pytest.approx(before**2)
    assert found[1].against_base.low < after - before < found[1].against_base.high
    huge = only(summarise(texts(UP, [1e4, 2e4]), [measure], [UP]), UP)
    assert np.isfinite([huge.value, huge.high]).all()


def test_samples_of_one_question_are_no_independent_rows() -> None:
    samples = [1.0] * 20 + [0.0] * 60
    found = rows(BASE, samples) + rows(UP, [1.0] * 40 + [0.0] * 40)
    alone = only(summarise(found, [ACCURACY], [BASE, UP]), UP)
    grouped = [replace(row, group=str(int(row.id) // 20)) for row in found]
    together = only(summarise(grouped, [ACCURACY], [BASE, UP]), UP)
    assert (together.groups, together.n, together.low_n, alone.groups) == (4, 80, True, 80)
    assert (together.interval, together.against_base.interval) == ("Wilson by group", "jackknife by group")
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.against_base.p > 0.1 > alone.against_base.p
    assert together.against_base.difference == alone.against_base.difference == 0.25


def test_the_order_of_rows_and_of_conditions_plays_no_part() -> None:
    generator = random.Random(0)
    graded = Measure("judge", "score", "mean")
    found = [
        replace(row, group=str(int(row.id) % 7))
        for condition in (BASE, UP, DOWN)
        for measure, draw in ((ACCURACY, lambda: generator.randint(0, 1)), (graded, generator.random))
        for row in rows(condition, [draw() for _ in range(50)], measure)
    ]
    first = summarise(found, [ACCURACY, graded], [BASE, UP, DOWN])
    generator.shuffle(found)
    assert summarise(found, [ACCURACY, graded], [BASE, UP, DOWN]) == first
    other = summarise(found, [ACCURACY, graded], [DOWN, UP, BASE])
    assert sorted(map(repr, other)) == sorted(map(repr, first))


def test_holm_is_over_the_conditions_of_one_metric() -> None:
    other = Measure("facts", "other")
    base = [0] * 40
    found = rows(BASE, base) + rows(UP, [1] * 6 + [0] * 34) + rows(DOWN, [1] * 7 + [0] * 33)
    found += rows(BASE, base, other) + rows(UP, [1] * 6 + [0] * 34, other)
    estimates = summarise(found, [ACCURACY, other], [BASE, UP, DOWN])
    compared = [each.against_base for each in estimates if each.against_base]
    p = [2 / 2**6, 2 / 2**7]
    assert [each.p for each in compared] == pytest.approx([*p, p[0]])
    assert [each.p_adjusted for each in compared] == pytest.approx([*holm_adjusted(p), p[0]])
    assert [each.significant for each in compared] == [True, True, True]


def test_controls_do_not_make_the_test_of_what_is_steered_stricter() -> None:
    base, up = [0] * 40, [1] * 6 + [0] * 34
    controls = [Condition("w random", k, delta="d", control="random") for k in range(1, 10)]
    found = rows(BASE, base) + rows(UP, up) + [row for each in controls for row in rows(each, up)]
    estimates = summarise(found, [ACCURACY], [BASE, UP, *controls])
    p = 2 / 2**6
    assert only(estimates, UP).against_base.p_adjusted == pytest.approx(p)
    assert only(estimates, controls[0]).against_base.p_adjusted == pytest.approx(9 * p)


def test_a_condition_is_compared_with_the_base_of_its_own_model() -> None:
    bases = [Condition("base", model=name) for name in ("a", "b")]
    ups = [Condition("w", 1.0, model=name, delta="d") for name in ("a", "b", "c")]
    found = [row for each in bases for row in rows(each, [each.model == "a", 1])]
    found += [row for each in ups for row in rows(each, [0, 1])]
    estimates = summarise(found, [ACCURACY], [*bases, *ups])
    assert [only(estimates, each).against_base for each in (*bases, ups[2])] == [None, None, None]
    assert [only(estimates, each).against_base.broken for each in ups[:2]] == [1, 0]
    alone = summarise(rows(bases[0], [1]) + rows(ups[2], [0]), [ACCURACY], [bases[0], ups[2]])
    assert only(alone, ups[2]).against_base.broken == 1


def test_conditions_without_rows_are_left_out_and_other_rows_ignored() -> None:
    found = summarise(rows(BASE, [1]) + rows(DOWN, [1]), [ACCURACY, Measure("facts", "none")], [BASE, UP])
    assert [(each.metric, each.condition) for each in found] == [("accuracy", BASE.name)]


def test_an_estimate_is_one_flat_line() -> None:
    found = rows(BASE, [1, 0, 1]) + rows(UP, [0, CUT, "failed: x"])
    base, up = (each.as_line() for each in summarise(found, [ACCURACY], [BASE, UP]))
    assert base.keys() == up.keys() and base["difference"] is None and base["left_out"] is None
    assert (up["cut"], up["abstained"], up["failed"], up["pairs"], up["left_out"]) == (1, 0, 1, 1, 2)
    assert (up["difference"], up["broken"], up["value"], up["interval"]) == (-1.0, 1, 0.0, "Wilson")
    assert not any(isinstance(value, dict) for value in up.values())


def test_failures_above_the_bound_are_named_abstentions_are_none() -> None:
    found = rows(BASE, [1] * 20 + [ABSTAINED, CUT, OUTSIDE]) + rows(UP, [1] * 18 + ["failed: 500"] * 2 + [OUTSIDE])
    estimates = summarise(found, [ACCURACY], [BASE, UP])
    assert unscored(estimates, [BASE, UP], 0.1) == []
    (line,) = unscored(estimates, [BASE, UP], 0.05)
    assert line == "facts, w k=1: 2 of 20 rows of accuracy have no score (failed: 500)"


def test_of_metrics_that_lack_as_many_rows_the_first_is_named() -> None:
    found = [replace(row, metric=name) for name in ("a", "b") for row in rows(BASE, [1, 1, "filtered"])]
    estimates = summarise(found, [Measure("facts", "a"), Measure("facts", "b")], [BASE])
    (line,) = unscored(estimates, [BASE], 0.05)
    assert line == "facts, base: 1 of 3 rows of a have no score (filtered)"


def test_a_warning_names_what_was_mostly_abstained() -> None:
    estimates = summarise(rows(BASE, [1, ABSTAINED]) + rows(UP, [1, ABSTAINED, ABSTAINED]), [ACCURACY], [BASE, UP])
    (warning,) = mostly_abstained(estimates, [BASE, UP])
    assert "accuracy of facts at w k=1 (2 of 3)" in warning and "base" not in warning
    assert list(mostly_abstained(estimates[:1], [BASE, UP])) == []
    (short,) = mostly_abstained(estimates[1:] * 30, [BASE, UP])
    assert short.count("accuracy of facts") == 4 and " and 26 more: " in short


def test_two_conditions_are_compared_as_each_is_with_the_base() -> None:
    base, up, down = [1, 0, 0, 0, 1, 0], [1, 1, OUTSIDE, 1, 0, float("nan")], [0, 0, 1, 0, OUTSIDE, 1]
    all_rows = rows(BASE, base) + rows(UP, up) + rows(DOWN, down)
    found = summarise(all_rows, [ACCURACY], [BASE, UP, DOWN])
    assert between(all_rows, ACCURACY, [BASE, UP, DOWN], UP, BASE) == replace(
        only(found, UP).against_base, p_adjusted=None, significant=False
    )
    compared = between(all_rows, ACCURACY, [BASE, UP, DOWN], UP, DOWN)
    five = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 1], [1, 1, 0, 1], [0, 1, 0, 0]])
    expected = paired_ratios(five.astype(float))
    assert (compared.difference, compared.low, compared.high) == (expected.value, expected.low, expected.high)
    assert compared.difference == pytest.approx(3 / 4 - 1 / 4) and compared.left_out["unscored"] == 1


def test_shares_with_graded_values_anywhere_are_compared_as_means() -> None:
    values = rows(BASE, [0, 1, 0.5]) + rows(UP, [1, 1, 0]) + rows(DOWN, [0, 0, 1])
    compared = between(values, ACCURACY, [BASE, UP, DOWN], UP, DOWN)
    assert compared.interval == "Student" and compared.fixed is None
    assert compared.p == pytest.approx(scipy.stats.ttest_rel([1, 1, 0], [0, 0, 1]).pvalue)
