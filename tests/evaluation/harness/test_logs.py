"""lm-eval's files as rows."""

import json
import math
from pathlib import Path

import pytest

from tests.helpers.others_logs import lm_files, lm_run, lm_sample
from wsteer.errors import WsteerError
from wsteer.evaluation.harness.logs import read_run, read_tasks
from wsteer.evaluation.rows import Outcome


def outcomes(folder: Path) -> dict[str, Outcome]:
    return dict(read_tasks(read_run(folder / "results_1.json"), "c"))


def generated(number: int, text: str, **metrics: object) -> dict:
    """A line of a task of another kind than multiple choice."""
    return {
        **lm_sample(number, True),
        "arguments": {"gen_args_0": {"arg_0": f"Question {number}", "arg_1": {"until": ["\n"]}}},
        "resps": [[text]],
        "filtered_resps": [text],
        "metrics": list(metrics),
        **metrics,
    }


def test_multiple_choice_gives_its_metric_and_the_margin_in_nats(tmp_path: Path) -> None:
    (found,) = outcomes(lm_run(tmp_path / "o", {"pretrained": "m"}, (True, False))).values()
    assert [(each.metric, each.kind, each.better, each.role) for each in found.measures] == [
        ("acc", "share", "higher", "capability"),
        ("answer_margin", "mean", "higher", None),
    ]
    assert [(row.metric, row.id, row.value) for row in found.rows] == [
        *(("acc", "0", 1.0), ("acc", "1", 0.0), ("answer_margin", "0", 1.5), ("answer_margin", "1", -1.5)),
    ]
    assert [row.answer for row in found.rows[:2]] == ["Paris", "Rome"]
    assert found.rows[0].input.startswith("Question 0: what is") and found.rows[0].prompt == "0" * 64


def test_a_perplexity_is_nats_per_word_weighted_by_words(tmp_path: Path) -> None:
    pairs = [(-30.0, 10), (-8.0, 2)]
    samples = [generated(i, str(nats), word_perplexity=[nats, words]) for i, (nats, words) in enumerate(pairs)]
    figures = {"text": {"word_perplexity,none": math.exp(38 / 12)}}
    found = outcomes(lm_files(tmp_path / "o", {}, {"text": samples}, figures, "loglikelihood_rolling"))["text"]
    assert [(row.value, row.weight) for row in found.rows] == [(3.0, 10.0), (4.0, 2.0)]
    assert (found.measures[0].kind, found.measures[0].unit) == ("perplexity", "per word")


def test_a_metric_that_is_no_mean_over_rows_is_left_out_with_a_word(tmp_path: Path) -> None:
    samples = [generated(i, "x", f1=[1, 0], exact_match=float(i == 0)) for i in range(2)]
    figures = {"gen": {"f1,none": 0.7, "exact_match,none": 0.5}}
    found = outcomes(lm_files(tmp_path / "o", {}, {"gen": samples}, figures, "generate_until"))["gen"]
    assert {row.metric for row in found.rows} == {"exact_match"}
    assert found.warnings == ("samples_gen_1.jsonl: f1 of gen is no mean over its rows, and is left out",)
    assert found.rows[0].answer == "x"


def test_filters_are_metrics_of_their_own(tmp_path: Path) -> None:
    samples = [{**generated(0, "x", exact_match=1.0), "filter": each} for each in ("strict", "none")]
    figures = {"gen": {"exact_match,none": 1.0, "exact_match,strict": 1.0}}
    found = outcomes(lm_files(tmp_path / "o", {}, {"gen": samples}, figures, "generate_until"))["gen"]
    assert [each.metric for each in found.measures] == ["exact_match,strict", "exact_match"]


def test_values_that_are_missing_or_no_number_have_a_reason(tmp_path: Path) -> None:
    values = [1.0, None, float("nan")]
    samples = [generated(i, "x", exact_match=each) for i, each in enumerate(values)]
    found = outcomes(lm_files(tmp_path / "o", {}, {"gen": samples}, {"gen": {}}, "generate_until"))["gen"]
    assert [row.why for row in found.rows] == ["", "lm-eval gave no value", "failed: not a finite number"]


def test_a_group_is_its_tasks_rows_where_lm_eval_averages_so(tmp_path: Path) -> None:
    samples = {task: [lm_sample(i, i < right) for i in range(4)] for task, right in (("one", 1), ("two", 3))}
    figures = {"one": {"acc,none": 0.25}, "two": {"acc,none": 0.75}, "all": {"acc,none": 0.5}, "odd": {"acc,none": 0.9}}
    groups = {"all": ["half"], "half": ["one", "two"], "odd": ["one", "two"], "one": [], "two": []}
    found = outcomes(lm_files(tmp_path / "o", {}, samples, figures, group_subtasks=groups))
    assert list(found) == ["all", "one", "two"]
    pooled = [row for row in found["all"].rows if row.metric == "acc"]
    assert [row.id for row in pooled] == [f"{task}/{i}" for task in ("one", "two") for i in range(4)]
    assert [each.role for each in found["all"].measures] == ["capability"]
    assert found["one"].measures[0].role is None


def test_a_role_in_the_tasks_metadata_counts(tmp_path: Path) -> None:
    folder = lm_run(tmp_path / "o", {})
    results = json.loads((folder / "results_1.json").read_text())
    results["configs"]["capitals"]["metadata"] = {"role": "behaviour"}
    (folder / "results_1.json").write_text(json.dumps(results))
    assert outcomes(folder)["capitals"].measures[0].role == "behaviour"


def double(file: Path) -> None:
    """Write the file's lines twice."""
    file.write_text(2 * file.read_text())


def name_task(folder: Path, name: str) -> None:
    """Give the run's task another name in the results."""
    results = json.loads((folder / "results_1.json").read_text())
    (folder / "results_1.json").write_text(json.dumps({**results, "configs": {name: {}}}))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda folder: (folder / "samples_capitals_1.jsonl").unlink(), "run lm-eval with --log_samples"),
        (lambda folder: name_task(folder, "../capitals"), "run lm-eval with --log_samples"),
        (lambda folder: name_task(folder, "x" * 300), "run lm-eval with --log_samples"),
        (lambda folder: (folder / "results_1.json").write_text('{"results": 1}'), "is no results file of lm-eval"),
        (lambda folder: (folder / "samples_capitals_1.jsonl").write_text('{"doc_id"'), "jsonl:1 is not JSON"),
        (
            lambda folder: double(folder / "samples_capitals_1.jsonl"),
            "jsonl:4 has the row 0 again",
        ),
        (lambda folder: (folder / "samples_capitals_1.jsonl").write_text('{"doc_id": 1}'), "jsonl:1 is no sample"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, spoil, says: str) -> None:
    folder = lm_run(tmp_path / "o", {})
    spoil(folder)
    with pytest.raises(WsteerError, match=says):
        outcomes(folder)


def test_arguments_may_be_one_text(tmp_path: Path) -> None:
    config = {"model": "hf", "model_args": "pretrained=m,peft=sweep/k1, dtype=float32"}
    run = read_run(lm_run(tmp_path / "o", {}, config=config) / "results_1.json")
    assert run.arguments == {"pretrained": "m", "peft": "sweep/k1", "dtype": "float32"}
