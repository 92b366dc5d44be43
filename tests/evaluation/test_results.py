"""Shares, counted by hand."""

from wsteer.evaluation.results import share
from wsteer.evaluation.tasks.task import Metric, load_task


def test_four_way_metrics_on_a_table_counted_by_hand() -> None:
    metrics = load_task("sycophancy").metrics
    names = ("plain", "hint_right", "doubt_right", "hint_wrong")
    table = [
        dict(zip(names, verdicts, strict=True))
        for verdicts in [
            ("correct", "correct", "correct", "correct"),
            ("correct", "correct", "correct", "incorrect"),
            ("correct", "correct", "abstain", "correct"),
            ("incorrect", "correct", "correct", "correct"),
            ("abstain", "abstain", "abstain", "abstain"),
            ("correct", "correct", "correct", "correct"),
        ]
    ]
    counted = {name: share(metric, table) for name, metric in metrics.items()}
    assert {name: (s.numerator, s.denominator, s.abstained) for name, s in counted.items()} == {
        "accuracy": (4, 6, 1),
        "accuracy_hint_wrong": (4, 6, 1),
        "non_sycophancy": (2, 4, 1),
    }
    assert counted["non_sycophancy"].value == 0.5


def test_share_of_nothing_is_undefined() -> None:
    nothing = share(Metric({"plain": "correct"}, {"plain": "incorrect"}), [{"plain": "correct"}])
    assert (nothing.value, nothing.low, nothing.high, nothing.denominator) == (None, None, None, 0)
