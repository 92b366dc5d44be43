"""Rules on a metric: the sides are chosen as the rule says, and the verdict is by the paired difference's interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tests.helpers.experiments import evaluated
from wsteer.demo.differences import Difference, Evaluation
from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT, read_rule
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import ABSTAINED, OUTSIDE, Measure

BASE = Condition("base")
DOWN, HALF, UP = (Condition("w", k, delta="d") for k in (-1.0, 0.5, 1.0))
A = Condition("a@12", 1.0, delta="a")
POLITE = Condition("polite", system="Be polite.")
KEPT = Measure("facts", "kept", "share", "higher", "behaviour")
RIGHT = Measure("facts", "accuracy", "share", "higher", "capability")
LONG = Measure("text", "perplexity", "perplexity", "lower", "capability")
Z = scipy.stats.norm.ppf(0.975)


def judged(
    folder: Path, values: Mapping[Measure, Sequence[Sequence]], conditions: Sequence[Condition], **rule: object
) -> Difference:
    """The verdict of a rule on made-up rows."""
    evaluation = Evaluation(evaluated(folder, conditions, values))
    return evaluation.judge(read_rule({"metric": "kept", "than": "base", **rule}))


def bonett_price(fixed: int, broken: int, pairs: int) -> tuple[float, float]:
    """Bonett and Price's interval (2012), as their paper has it."""
    up, down = (fixed + 1) / (pairs + 2), (broken + 1) / (pairs + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (pairs + 2))
    return up - down - half, up - down + half


def test_a_difference_above_zero_agrees_with_more_and_not_with_less(tmp_path: Path) -> None:
    values = {KEPT: [[0] * 30 + [1] * 10, [1] * 20 + [0] * 10 + [1] * 8 + [0] * 2]}
    found = judged(tmp_path / "more", values, [BASE, UP], more="w k=1")
    low, high = bonett_price(20, 2, 40)
    compared = found.mine.estimate.against_base
    assert (found.verdict, found.mine.label, found.other.label) == (AGREES, "w k=1", "base")
    assert (compared.difference, compared.low, compared.high) == pytest.approx((18 / 40, low, high))
    assert (compared.fixed, compared.broken, compared.pairs) == (20, 2, 40)
    told = f"+45.0 ({100 * low:+.1f} to {100 * high:+.1f})"
    assert (found.compared, found.decisive) == ("kept, w k=1 minus base", told)
    assert (found.mine.estimate.value, found.other.estimate.value) == (0.7, 0.25)
    assert found.why.startswith("kept is 70.0% (") and found.why.endswith(f"{told} on 40 pairs, is above 0")
    assert judged(tmp_path / "less", values, [BASE, UP], less="w k=1").verdict == DOES_NOT


def test_a_difference_below_zero_agrees_with_less_and_not_with_more(tmp_path: Path) -> None:
    values = {KEPT: [[1] * 30, [0] * 20 + [1] * 10]}
    less = judged(tmp_path / "less", values, [BASE, DOWN], less="w k=-1")
    assert less.verdict == AGREES and less.why.endswith("is below 0")
    assert judged(tmp_path / "more", values, [BASE, DOWN], more="w k=-1").verdict == DOES_NOT


def test_an_interval_that_holds_zero_cannot_tell(tmp_path: Path) -> None:
    values = {KEPT: [[0] * 8, [1, 1, 0, 0, 0, 0, 0, 0]]}
    found = judged(tmp_path, values, [BASE, UP], more="w k=1")
    low, high = bonett_price(2, 0, 8)
    assert low < 0 < high and found.verdict == CANNOT_TELL and found.why.endswith("holds 0")
    assert (found.mine.estimate.against_base.low, found.mine.estimate.against_base.high) == pytest.approx((low, high))


def test_two_conditions_that_are_not_the_base_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    values = {KEPT: [[0] * 20, [1] * 16 + [0] * 4, [0] * 2 + [1] * 2 + [0] * 16]}
    found = judged(tmp_path, values, [BASE, UP, A], more="w k=1", than="a@12 k=1")
    compared = found.mine.estimate.against_base
    assert (compared.difference, compared.low, compared.high) == pytest.approx((0.7, *bonett_price(14, 0, 20)))
    assert found.verdict == AGREES and (found.mine.estimate.value, found.other.estimate.value) == (0.8, 0.1)


def test_means_are_compared_by_the_paired_t(tmp_path: Path) -> None:
    score = Measure("facts", "kept", "mean")
    mine, other = [3.0, 2.5, 4.0, 3.5, 2.0, 5.0], [1.0, 1.5, 2.0, 3.0, 1.0, 2.5]
    found = judged(tmp_path, {score: [other, mine]}, [BASE, UP], more="w")
    test = scipy.stats.ttest_rel(mine, other)
    expected = test.confidence_interval(0.95)
    compared = found.mine.estimate.against_base
    assert (compared.low, compared.high, compared.p) == pytest.approx((expected.low, expected.high, test.pvalue))
    assert compared.difference == pytest.approx(np.mean(mine) - np.mean(other)) and found.verdict == AGREES


def test_of_a_method_the_condition_with_the_most_counts_and_with_less_the_one_with_the_least(tmp_path: Path) -> None:
    conditions = [BASE, DOWN, HALF, UP]
    values = {KEPT: [[1] * 10 + [0] * 10, [1] * 2 + [0] * 18, [1] * 15 + [0] * 5, [1] * 18 + [0] * 2]}
    assert judged(tmp_path / "more", values, conditions, more="w").mine.label == "w k=1"
    assert judged(tmp_path / "less", values, conditions, less="w").mine.label == "w k=-1"


@pytest.mark.parametrize(
    ("within", "label"), [(0.05, "base"), (0.1, "w k=0.5"), (0.3, "w k=0.5"), (0.4, "w k=1"), (1, "w k=1")]
)
def test_a_condition_that_loses_more_than_is_allowed_does_not_count(tmp_path: Path, within: float, label: str) -> None:
    # accuracy 0.8, 0.7 and 0.4: 0.8 - 0.7 is a little more than 0.1 for a computer
    values = {
        KEPT: [[0] * 10, [1] * 5 + [0] * 5, [1] * 9 + [0]],
        RIGHT: [[1] * 8 + [0] * 2, [1] * 7 + [0] * 3, [1] * 4 + [0] * 6],
    }
    found = judged(tmp_path, values, [BASE, HALF, UP], more="w", than="base", keep="accuracy", within=within)
    assert found.mine.label == label and found.mine.kept.value == {"base": 0.8, "w k=0.5": 0.7, "w k=1": 0.4}[label]
    if label == "base":
        assert found.verdict == CANNOT_TELL and "stands for both: nothing of either has more and keeps" in found.why


def test_what_is_better_when_lower_is_lost_when_it_rises(tmp_path: Path) -> None:
    nats = [[1.0, 1.2], [1.1, 1.3], [3.0, 3.2]]
    values = {KEPT: [[0, 0], [1, 0], [1, 1]], LONG: nats}
    rule = {"more": "w", "keep": "perplexity"}
    lost = math.exp(1.2) - math.exp(1.1)
    close = judged(tmp_path / "a", values, [BASE, HALF, UP], **rule, within=lost + 1e-6)
    assert close.mine.label == "w k=0.5" and close.mine.kept.value == pytest.approx(math.exp(1.2))
    assert judged(tmp_path / "b", values, [BASE, HALF, UP], **rule, within=lost - 1e-6).mine.label == "base"
    assert judged(tmp_path / "c", values, [BASE, HALF, UP], **rule, within=100).mine.label == "w k=1"


def test_of_equal_conditions_the_base_counts_and_then_the_smallest_k(tmp_path: Path) -> None:
    same = {KEPT: [[1, 0], [1, 0], [1, 0]]}
    found = judged(tmp_path / "a", same, [BASE, HALF, UP], more="w", than="base")
    assert found.mine.label == "base" and found.verdict == CANNOT_TELL
    equal = {KEPT: [[0, 0], [1, 1], [1, 1]]}
    assert judged(tmp_path / "b", equal, [BASE, UP, HALF], more="w").mine.label == "w k=0.5"


def test_checkpoints_are_a_method_and_a_prompt_is_a_condition(tmp_path: Path) -> None:
    steps = [Condition("run", 1.0, delta=f"c{step}", step=step) for step in (10, 20)]
    values = {KEPT: [[0] * 6, [1] * 2 + [0] * 4, [1] * 4 + [0] * 2, [1] + [0] * 5]}
    conditions = [BASE, *steps, POLITE]
    found = judged(tmp_path / "a", values, conditions, more="run", than="polite")
    assert (found.mine.label, found.other.label) == ("run step 20", "polite")
    assert judged(tmp_path / "b", values, conditions, more="run step 10").mine.label == "run step 10"


def test_controls_and_parts_are_conditions_but_not_of_the_method(tmp_path: Path) -> None:
    part = Condition("w", 1.0, delta="d2", part="keep mlp")
    values = {KEPT: [[0, 0, 0], [1, 0, 0], [1, 1, 1]]}
    assert judged(tmp_path, values, [BASE, UP, part], more="w").mine.label == "w k=1"
    assert judged(tmp_path / "named", values, [BASE, UP, part], more="w keep mlp k=1").mine.estimate.value == 1


def test_a_denominator_that_moves_is_paired_over_all_rows_of_either_side(tmp_path: Path) -> None:
    values = {KEPT: [[1, 0, 0, OUTSIDE, OUTSIDE, 0], [1, 1, OUTSIDE, 1, OUTSIDE, 0]]}
    compared = judged(tmp_path, values, [BASE, UP], more="w k=1").mine.estimate.against_base
    assert compared.difference == pytest.approx(3 / 4 - 1 / 4) and (compared.pairs, compared.interval) == (
        5,
        "jackknife",
    )


def test_a_denominator_that_the_base_fixes_is_that_of_both_sides(tmp_path: Path) -> None:
    among = Measure("facts", "kept", "share", "higher", "behaviour", among="accuracy")
    values = {
        RIGHT: [[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6],
        among: [[0] * 6, [1, 1, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1]],
    }
    found = judged(tmp_path, values, [BASE, UP, A], more="w k=1", than="a@12 k=1")
    compared = found.mine.estimate.against_base
    assert (found.mine.estimate.denominator, found.other.estimate.denominator, compared.pairs) == (4, 4, 4)
    assert (compared.fixed, compared.broken) == (2, 0)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([[1.5], [2.5]], "2.5 (1) under w k=1"),  # one row of a mean has no interval
        ([[OUTSIDE] * 3, [1, 1, 1]], "undefined (0/0) under base"),
        ([[1, 1], [ABSTAINED] * 2], "undefined (0/0) under w k=1"),
        ([[1, 1, None, None], [None, None, 1, 1]], "the rows do not tell"),
        ([[1, 1], [None, None]], "no condition or method 'w k=1'"),
    ],
)
def test_rows_that_do_not_tell_cannot_tell(tmp_path: Path, columns: list, told: str) -> None:
    measure = Measure("facts", "kept", "mean" if columns[0] == [1.5] else "share")
    if told.startswith("no condition"):  # it is listed but has no rows at all
        with pytest.raises(WsteerError, match=told):
            judged(tmp_path, {measure: columns}, [BASE, UP], more="w k=1")
        return
    found = judged(tmp_path, {measure: columns}, [BASE, UP], more="w k=1")
    assert (found.verdict, found.mine.estimate.against_base.low) == (CANNOT_TELL, None) and told in found.why


def test_one_row_of_a_share_cannot_tell(tmp_path: Path) -> None:
    found = judged(tmp_path, {KEPT: [[0], [1]]}, [BASE, UP], more="w k=1")
    low, high = bonett_price(1, 0, 1)
    assert found.verdict == CANNOT_TELL and low < 0 < high
    assert found.mine.estimate.against_base.low == pytest.approx(low)


def test_a_metric_that_a_side_lacks_cannot_tell(tmp_path: Path) -> None:
    found = judged(tmp_path, {KEPT: [[1], [None]], RIGHT: [[1], [1]]}, [BASE, UP], more="w k=1")
    assert found.verdict == CANNOT_TELL and "no rows under w k=1" in found.why and found.decisive == ""


def test_a_method_without_any_value_is_the_base(tmp_path: Path) -> None:
    found = judged(tmp_path, {KEPT: [[1, 0], [ABSTAINED] * 2]}, [BASE, UP], more="w")
    assert found.mine.label == "base" and found.verdict == CANNOT_TELL


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            {"more": "w k=2"},
            r"has no condition or method 'w k=2'; there are base, w k=1, polite, w; did you mean w k=1?",
        ),
        ({"more": "v", "than": "base"}, "has no condition or method 'v'; there are base, w k=1, polite, w"),
        ({"more": "w", "than": "bas"}, "did you mean base?"),
        ({"more": "w", "metric": "keptt"}, "there is no metric 'keptt'; there are kept, accuracy; did you mean kept?"),
        ({"more": "w", "keep": "acc", "within": 0.1}, "there is no metric 'acc'; there are kept, accuracy"),
        ({"more": "w k=1", "keep": "accuracy", "within": 0.1}, "w k=1 and base are conditions; leave keep out"),
        ({"more": "polite", "keep": "accuracy", "within": 0.1}, "polite and base are conditions; leave keep out"),
    ],
)
def test_a_name_that_the_results_lack_is_refused_with_those_there_are(tmp_path: Path, rule: dict, told: str) -> None:
    values = {KEPT: [[0], [1], [1]], RIGHT: [[1], [1], [1]]}
    with pytest.raises(WsteerError) as error:
        judged(tmp_path, values, [BASE, UP, POLITE], **rule)
    assert told in str(error.value) and "eval" in str(error.value)


def test_a_task_tells_two_metrics_of_one_name_apart(tmp_path: Path) -> None:
    other = Measure("opinions", "kept")
    values = {KEPT: [[0] * 20, [1] * 20], other: [[1] * 20, [0] * 20]}
    assert judged(tmp_path / "a", values, [BASE, UP], more="w", metric="facts.kept").verdict == AGREES
    with pytest.raises(WsteerError, match=r"write one of facts\.kept, opinions\.kept"):
        judged(tmp_path / "b", values, [BASE, UP], more="w")


def test_a_method_that_keeps_nothing_is_stood_for_by_the_base_and_the_reason_says_so(tmp_path: Path) -> None:
    right = [1] * 40
    values = {KEPT: [[0] * 40, [1] * 40, [1] * 30 + [0] * 10], RIGHT: [right, [0] * 40, right]}
    found = judged(tmp_path, values, [BASE, UP, A], more="w", than="a@12", keep="accuracy", within=0.1)
    assert (found.verdict, found.mine.label, found.other.label) == (DOES_NOT, "base", "a@12 k=1")
    assert "; no condition of w keeps accuracy; " in found.why and "of a@12" not in found.why


def test_a_side_without_values_leaves_it_open(tmp_path: Path) -> None:
    values = {KEPT: [[0] * 40, [ABSTAINED] * 40], RIGHT: [[1] * 40, [1] * 40]}
    for name, sides in {"label": ("w k=1", "base"), "method": ("w", "base"), "other": ("base", "w k=1")}.items():
        mine, other = sides
        found = judged(tmp_path / name, values, [BASE, UP], more=mine, than=other)
        assert found.verdict == CANNOT_TELL and found.decisive == ""


def test_of_rows_among_those_of_the_base_the_difference_is_the_summarys(tmp_path: Path) -> None:
    among = Measure("facts", "kept", "share", "higher", "behaviour", among="accuracy")
    values = {
        among: [[0, 1] * 20, [1, 1, 0, 1] * 10, [1] * 40, [0] * 40],
        RIGHT: [[1, 1, 0, 1] * 10, [0] * 40, [1] * 40, [1] * 40],
    }
    evaluation = Evaluation(evaluated(tmp_path, [BASE, UP, A, POLITE], values))
    found = evaluation.judge(read_rule({"metric": "kept", "more": "w k=1", "than": "base"}))
    there = evaluation.estimates["facts", "kept", UP.name].against_base
    assert there is not None and found.mine.estimate.against_base == replace(there, p_adjusted=None, significant=False)
