"""Arguments of inspect tasks, and measures that tasks declare."""

import re
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from tests.helpers.inspect_tasks import Bench, bench
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.inspection import run
from wsteer.evaluation.inspection.references import check_tasks, digests, loaded
from wsteer.evaluation.rows import OUTSIDE, Measure

DECLARED = """
import json
import math
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, mean, scorer


@scorer(metrics={"*": [mean()]})
def lengths():
    async def score(state, target):
        odd = int(state.sample_id) % 2
        values = {"odd": float(odd), "among_odd": 1.0 if odd else math.nan, "other": 0.5}
        return Score(value=values, metadata={"wsteer_why": {} if odd else {"among_odd": "outside"}})

    return score


def made(samples, metadata):
    config = GenerateConfig(max_tokens=2)
    return Task(MemoryDataset(samples), scorer=lengths(), config=config, metadata=metadata)


@task
def first(data="", count=4):
    measures = {"odd": {"better": "lower", "role": "behaviour"}, "among_odd": {"kind": "share", "among": "odd"}}
    rows = json.loads(Path(data).read_text()) if data else range(count)
    return made([Sample(id=str(row), input="Say") for row in rows], {"wsteer_measures": measures})


@task
def second(count=2):
    declared = {"wsteer_measures": {"odd": {"kind": "median"}}}
    return made([Sample(id=str(row), input="Say") for row in range(count)], declared)
"""


@pytest.fixture(scope="module")
def tiny_bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tiny, tmp_path_factory.mktemp("bench"))


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    (tmp_path / "declared.py").write_text(DECLARED)
    return str(tmp_path / "declared.py")


def test_each_task_gets_the_arguments_that_it_takes(tasks: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[7, 9, 11]")
    given = {"count": 3, "second.count": 5, "first.data": str(tmp_path / "rows.json")}
    check_tasks([tasks], given)
    first, second = loaded([tasks], given)
    assert [sample.id for sample in first.dataset] == ["7", "9", "11"]
    assert len(second.dataset) == 5
    assert [len(task.dataset) for task in loaded([f"{tasks}@second"], {"count": 3})] == [3]


@pytest.mark.parametrize("name", ["counts", "second.data", "third.count", "first.counts"])
def test_an_argument_that_no_task_takes_is_refused_with_those_that_there_are(tasks: str, name: str) -> None:
    with pytest.raises(WsteerError, match=rf"-T {name}=: no task .* there are count, data"):
        check_tasks([tasks], {name: 1})


def test_the_papers_tasks_are_made_before_any_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match=r"wsteer has no such task; it has .*gsm8k"):
        check_tasks(["wsteer/gsm9k"], {})
    with pytest.raises(WsteerError, match=r"-T datas=: .* there are .*data"):
        check_tasks(["wsteer/gsm8k"], {"datas": "x"})
    (tmp_path / "rows.jsonl").write_text('{"question": "2 + 2?", "answer": "none"}\n')
    with pytest.raises(WsteerError, match=r"rows.jsonl:1 .*number"):
        check_tasks(["wsteer/gsm8k"], {"data": str(tmp_path / "rows.jsonl")})
    (tmp_path / "rows.jsonl").write_text('{"question": "2 + 2?", "answer": "Two and two are 4 #### 4"}\n')
    check_tasks(["wsteer/gsm8k"], {"data": str(tmp_path / "rows.jsonl")})
    (task,) = loaded(["wsteer/gsm8k"], {"gsm8k.data": str(tmp_path / "rows.jsonl")})
    assert [sample.target for sample in task.dataset] == ["4"]


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        ("trait", {"data": 5}, "-T data=5 is no text; give a file as ./5"),
        ("emergent_misalignment", {"data": 5}, "-T data=5 is no text"),
        ("sycophancy", {"data": ["a", "b"]}, "-T data=['a', 'b'] is no text; give one text"),
        ("harm_refusal", {"data": "x", "judge_prompt": 7}, "-T judge_prompt=7 is no text"),
        ("harm_refusal", {"scale": "maybe"}, "-T scale=maybe: give true or false"),
        ("gsm8k", {"gsm8k.max_tokens": -3}, "-T max_tokens=-3: give a whole number from 1 up"),
        ("evil_mcqa", {"max_tokens": "abc"}, "-T max_tokens=abc: give a whole number"),
        ("trait", {"samples": True}, "-T samples=True: give a whole number"),
        ("sycophancy", {"temperature": "hot"}, "-T temperature=hot: give a number from 0 up"),
        ("gcd_sycophancy", {"temperature": -1}, "-T temperature=-1: give a number from 0 up"),
        ("gcd_sycophancy", {"temperature": float("nan")}, "-T temperature=nan: give a number from 0 up"),
    ],
)
def test_an_argument_of_another_type_is_refused_by_name(task: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(WsteerError, match=re.escape(said)):
        check_tasks([f"wsteer/{task}"], given)


def test_a_tasks_data_are_among_its_files(tasks: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[1]")
    assert list(digests([tasks], {"first.data": str(tmp_path / "rows.json"), "count": 2})) == [
        "declared.py",
        "rows.json",
    ]


@pytest.mark.slow
def test_declared_metrics_go_by_their_keys_and_say_why_they_have_no_value(
    tasks: str, tiny_bench: Bench, tmp_path: Path
) -> None:
    found = run([f"{tasks}@first"], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path, task_args={"count": 4})
    assert found.measures == (
        Measure("first", "odd", "share", "lower", "behaviour"),
        Measure("first", "among_odd", "share", among="odd"),
        Measure("first", "lengths.other", "mean", "higher"),
    )
    values = {(row.metric, row.group): (row.value, row.why) for row in found.rows}
    assert values["odd", "1"] == (1.0, "") and values["odd", "2"] == (0.0, "")
    assert values["among_odd", "1"] == (1.0, "") and values["among_odd", "2"] == (None, OUTSIDE)


@pytest.mark.slow
def test_rows_that_changed_are_run_again_and_the_others_are_not(tasks: str, tiny_bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "rows.json"
    base = tiny_bench.conditions[:1]

    def ids(**given: object) -> tuple[list[str], set[Path]]:
        rows = run([f"{tasks}@first"], tiny_bench.subject, base, [], tmp_path / "out", task_args=given).rows
        return sorted({row.group for row in rows}), set((tmp_path / "out" / "inspect").glob("*.eval"))

    data.write_text("[1, 2]")
    groups, logs = ids(data=str(data))
    assert groups == ["1", "2"] and ids(data=str(data)) == (groups, logs)
    data.write_text("[1, 3]")
    groups, others = ids(data=str(data))
    assert groups == ["1", "3"] and not logs & others


@pytest.mark.slow
def test_a_measure_that_is_none_is_refused_by_name(tasks: str, tiny_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match="the task second has 'wsteer_measures' in its metadata that are none"):
        run([f"{tasks}@second"], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)
