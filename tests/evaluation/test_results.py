"""Shares, counted by hand."""

from wsteer.cli.eval import share_text
from wsteer.evaluation.report import axis_label
from wsteer.evaluation.results import ConditionResult, EvalReport, mostly_abstained, share, shares
from wsteer.evaluation.tasks.task import Metric, load_task

ACCURACY = Metric({"plain": "correct"}, {})


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


def test_a_share_counts_the_abstentions_and_cut_answers_it_hides() -> None:
    task = load_task("agreement")
    verdicts = [("correct", True), ("abstain", False), ("abstain", True), ("incorrect", False)]
    samples = [
        {"id": str(i), "prompt": prompt, "verdict": verdict if prompt == "plain" else "agrees", "finished": finished}
        for i, (verdict, finished) in enumerate(verdicts)
        for prompt in ("plain", "claim")
    ]
    found = shares(task, samples)
    assert (found["accuracy"].abstained, found["accuracy"].cut) == (2, 2)
    assert (found["agreement"].abstained, found["agreement"].cut) == (0, 2)
    assert share_text(vars(found["accuracy"])) == "25% (1/4, 5-70; 2 abstained, 2 cut)"
    assert share_text({**vars(found["agreement"]), "cut": 0}) == "100% (4/4, 51-100)"
    report = EvalReport("out", task.name, 4, (ConditionResult(0.0, found),))
    assert axis_label(report, "accuracy") == "accuracy (share; of 4 up to 2 abstained, 2 cut)"
    assert list(mostly_abstained(report.conditions)) == []  # half is not most


def test_a_cut_answer_counts_for_the_metrics_of_its_prompt_and_denominator() -> None:
    metric = Metric({"plain": "correct"}, {"hint": "correct"})
    facts = [{"plain": "correct", "hint": "correct"}, {"plain": "correct", "hint": "incorrect"}]
    assert share(metric, facts, [{"hint"}, {"plain"}]).cut == 0
    assert share(metric, facts, [{"plain"}, set()]).cut == 1


def test_most_abstentions_are_one_warning_that_names_each_share() -> None:
    nothing, some = share(ACCURACY, [{"plain": "abstain"}] * 3), share(ACCURACY, [{"plain": "correct"}])
    conditions = [ConditionResult(k, {"accuracy": found}) for k, found in ((0.0, some), (1.5, nothing))]
    (warning,) = mostly_abstained(conditions)
    assert "accuracy at k=1.5 (3 of 3)" in warning and "k=0" not in warning
