"""--choose: the rule's grammar, one half of the rows that chooses and the other that checks."""

from collections.abc import Mapping, Sequence

import pytest

from wsteer.errors import WsteerError
from wsteer.evaluation.choosing import Choice, parse_choice
from wsteer.evaluation.choosing import choose as choose_by
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import OUTSIDE, Measure, Row, find_measure
from wsteer.evaluation.summary import summarise

BASE = Condition("base")
WEAK, STRONG, BROKEN = (Condition("w", k, delta="d") for k in (0.5, 1.0, 4.0))
CONTROL = Condition("w random", 1.0, delta="r", control="random")
PART = Condition("w", 1.0, delta="p", part="keep layer 1")
ALL = [BASE, WEAK, STRONG, BROKEN, CONTROL, PART]
BEHAVIOUR = Measure("syco", "non_sycophancy", "share", "higher", "behaviour")
ACCURACY = Measure("facts", "accuracy", "share", "higher", "capability")
MEASURES = [BEHAVIOUR, ACCURACY]


def rows(shares: Mapping[Condition, tuple[float, float]], n: int = 200) -> list[Row]:
    """n rows of either metric under each condition: with these shares of 1, the same first rows first."""
    found = []
    for condition, both in shares.items():
        for measure, share in zip(MEASURES, both, strict=True):
            found += [
                Row(measure.task, measure.metric, condition.name, f"{i}", float(i * 37 % n < share * n))
                for i in range(n)
            ]
    return found


def choose(found: Sequence[Row], conditions: Sequence[Condition], text: str, seed: int = 0) -> Choice:
    return choose_by(found, MEASURES, conditions, parse_choice(text), seed)


TABLE = rows(
    {BASE: (0.3, 0.9), WEAK: (0.5, 0.9), STRONG: (0.7, 0.89), BROKEN: (0.9, 0.3), CONTROL: (1.0, 1.0), PART: (1.0, 1.0)}
)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("max non_sycophancy s.t. lo(accuracy) > -0.1", "w k=1"),
        ("max syco.non_sycophancy subject to lo(facts.accuracy) > -0.01", None),
        ("max non_sycophancy", "w k=4"),
        ("max non_sycophancy s.t. accuracy >= 0.5, non_sycophancy < 0.6", "w k=0.5"),
        ("min accuracy s.t. lo(non_sycophancy)>=.1,hi(accuracy)<=1e1", "w k=4"),
        ("max accuracy s.t. lo(non_sycophancy) > 0", "w k=0.5"),  # the base does not keep this: it is no rival
    ],
)
def test_a_rule_chooses_the_best_within_its_constraints_and_never_a_control_or_part(
    text: str, label: str | None
) -> None:
    found = choose(TABLE, ALL, text)
    assert found.label == label
    assert (found.condition is None) == (label is None) == (found.holds is None)


def test_the_choice_is_reported_on_the_rows_that_did_not_choose() -> None:
    text = "max non_sycophancy s.t. lo(accuracy) > -0.1"
    found = choose(TABLE, ALL, text, seed=3)
    held_out = {each.metric: each for each in found.held_out}
    assert {each.condition for each in found.held_out} == {STRONG.name} and held_out["accuracy"].n == 100
    total = summarise(TABLE, MEASURES, [STRONG])[0].numerator
    assert held_out["non_sycophancy"].numerator + round(found.value * 100) == total
    (check,) = found.checks
    assert check.held_out == held_out["accuracy"].against_base.low > -0.1 and check.holds and found.holds
    assert check.chosen_on != check.held_out or found.value != held_out["non_sycophancy"].value
    assert choose(list(reversed(TABLE)), ALL, text, seed=3) == found
    assert choose(TABLE, ALL, text, seed=4).held_out != found.held_out
    assert found.warnings == () and found.as_json()["label"] == "w k=1"


def test_a_choice_is_told_in_lines() -> None:
    text = "max non_sycophancy s.t. lo(accuracy) > -0.1"
    lines = choose(TABLE, ALL, text).told
    assert lines[0] == f"{text}: w k=1, chosen on half of the rows"
    assert lines[1].startswith("on the other half: non_sycophancy 0.") and " to " in lines[1]
    assert lines[2].startswith("there lo(accuracy) is -0.0") and lines[2].endswith("and > -0.1")
    assert choose(TABLE, ALL, f"{text}, accuracy > 2").told[0].startswith(f"{text}, accuracy > 2: none qualifies;")


def test_a_constraint_that_fails_on_the_rows_held_out_is_said() -> None:
    lucky = choose(TABLE, ALL, "max non_sycophancy s.t. accuracy > 0")
    held = {each.metric: each.value for each in lucky.held_out}
    bound = (lucky.value + held["non_sycophancy"]) / 2
    sign = ">" if lucky.value > bound else "<"
    found = choose(TABLE, [BASE, BROKEN], f"max non_sycophancy s.t. non_sycophancy {sign} {bound}")
    assert (lucky.label, found.label, found.holds) == ("w k=4", "w k=4", False)
    assert found.why == f"on the rows held out non_sycophancy is {held['non_sycophancy']:.4g}, not {sign} {bound:g}"


def test_none_qualifies_and_the_nearest_miss_is_named() -> None:
    found = choose(TABLE, ALL, "max non_sycophancy s.t. lo(accuracy) > 0.5, non_sycophancy > 0.8")
    assert found.condition is None and found.held_out == found.checks == ()
    assert (
        found.why.startswith("none qualifies; the nearest is w k=4: lo(accuracy) is -0.") and "not > 0.5" in found.why
    )
    assert "non_sycophancy" not in found.why  # of that it has enough


def test_where_the_base_is_best_none_qualifies() -> None:
    found = choose(TABLE, [BASE, STRONG, BROKEN], "min non_sycophancy s.t. accuracy > 0.5")
    assert found.condition is None
    assert found.why.startswith("none qualifies: within the constraints none has a better non_sycophancy than the base")
    same = rows({BASE: (0.5, 0.9), WEAK: (0.5, 0.9)})
    assert choose(same, [BASE, WEAK], "max non_sycophancy").condition is None
    alone = choose(TABLE, [BASE, CONTROL, PART], "max non_sycophancy")
    assert alone.why == "none qualifies: there is no condition but the base, controls and parts"


def test_of_equals_the_smallest_k_is_chosen() -> None:
    same = rows({BASE: (0.5, 0.9), BROKEN: (0.8, 0.9), WEAK: (0.8, 0.9), STRONG: (0.8, 0.9)})
    assert choose(same, [BASE, BROKEN, WEAK, STRONG], "max non_sycophancy").label == "w k=0.5"


def test_what_is_undefined_does_not_qualify() -> None:
    found = rows({BASE: (0.5, 0.9)}, 20) + [
        Row("syco", "non_sycophancy", WEAK.name, f"{i}", None, OUTSIDE) for i in range(20)
    ]
    choice = choose(found, [BASE, WEAK], "max non_sycophancy s.t. lo(accuracy) > -1")
    assert choice.why == (
        "none qualifies; the nearest is w k=0.5: lo(accuracy) is undefined, not > -1; non_sycophancy is undefined"
    )


def test_small_halves_are_warned_of_and_halves_are_of_equal_size() -> None:
    found = choose(rows({BASE: (0.1, 0.9), WEAK: (0.8, 0.9)}, 24), [BASE, WEAK], "max non_sycophancy")
    assert found.warnings == ("the choice rests on fewer than 30 independent rows a half, for non_sycophancy (12)",)
    assert [each.n for each in found.held_out] == [12, 12]


def test_rows_of_a_group_are_in_the_same_half() -> None:
    grouped = [
        Row(row.task, row.metric, row.condition, row.id, row.value, group=str(int(row.id) // 20)) for row in TABLE
    ]
    found = choose(grouped, [BASE, WEAK], "max non_sycophancy")
    assert [(each.groups, each.n) for each in found.held_out] == [(5, 100), (5, 100)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("non_sycophancy", "'non_sycophancy' is no rule of choice; write 'max METRIC s.t."),
        ("max non_sycophancy s.t.", "is no rule of choice"),
        ("max non_sycophancy where accuracy > 1", "is no rule of choice"),
        ("max non_sycophancy s.t. lo(accuracy > 1", "'lo(accuracy > 1' is no constraint"),
        ("max non_sycophancy s.t. accuracy = 1", "'accuracy = 1' is no constraint"),
        ("max non_sycophancy s.t. accuracy > 1 accuracy < 2", "is no constraint"),
        ("max non_sycophancy s.t. accuracy > high", "'high' is no number"),
        ("max non_sycophancy s.t. accuracy > nan", "'nan' is no number"),
        ("max sycophancy", "no metric 'sycophancy'; there are non_sycophancy, accuracy; did you mean non_sycophancy?"),
        ("max non_sycophancy s.t. lo(xyz) > 1", "there is no metric 'xyz'; there are non_sycophancy, accuracy"),
    ],
)
def test_another_text_is_an_error_of_one_line(text: str, message: str) -> None:
    with pytest.raises(WsteerError) as caught:
        parse_choice(text).check_names(MEASURES)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_metric_of_several_tasks_is_named_with_its_task() -> None:
    both = [Measure("a", "exact_match,strict"), Measure("b", "exact_match,strict")]
    with pytest.raises(WsteerError, match=r"several tasks .* write one of a\.exact_match,strict, b\.exact"):
        find_measure(both, "exact_match,strict")
    rule = parse_choice("max b.exact_match,strict s.t. lo(a.exact_match,strict) > -1, b.exact_match,strict<1")
    rule.check_names(both)
    assert rule.metric == "b.exact_match,strict"
    assert [each.term for each in rule.constraints] == ["lo(a.exact_match,strict)", "b.exact_match,strict"]


def test_a_goal_without_an_interval_is_told_too() -> None:
    """As of equal values, which do not tell how far others lie."""
    length = Measure("syco", "length", "mean", "lower")
    found = [Row("syco", "length", each.name, f"{i}", 1 + each.k) for each in (BASE, WEAK) for i in range(20)]
    chosen = choose_by(found, [length], [BASE, WEAK], parse_choice("max length"), 0)
    assert chosen.told[1] == "on the other half: length 1.5"
