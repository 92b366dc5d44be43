"""The paper's judged tasks with judges that fail, withhold, talk nonsense, die and come back: no row is lost unseen."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.command import Cli, Inputs
from tests.helpers.inspect_tasks import Bench, bench
from tests.helpers.judge import DEAD, Reply, judge
from tests.helpers.paper_tasks import JUDGED, Judged, row_of, verdict
from tests.helpers.thinking import say
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.inspection import run
from wsteer.evaluation.rows import Outcome, Row

pytest.importorskip("inspect_ai")

from tenacity import wait_fixed  # comes with inspect_ai

pytestmark = pytest.mark.slow
EVERY = 5  # the calls that fail
Evaluate = Callable[..., Outcome]


@pytest.fixture(scope="module")
def tiny_bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tiny, tmp_path_factory.mktemp("bench"))


@pytest.fixture
def task(name: str, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """The task of this name, and a model that says what it is to grade."""
    say(monkeypatch, JUDGED[name].says)
    return JUDGED[name]


@pytest.fixture
def evaluated(name: str, task: Judged, tiny_bench: Bench, tmp_path: Path) -> Evaluate:
    """Run the task under two conditions with these judges, in a folder of this name."""

    def evaluated(folder: str, *judges: str) -> Outcome:
        given = [f"wsteer/{name}"], tiny_bench.subject, tiny_bench.conditions[:2], judges, tmp_path / folder
        return run(*given, task_args=task.task_args(tmp_path))

    return evaluated


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inspect_ai and openai's client call again at once, where they would wait minutes for a judge."""
    monkeypatch.setattr("inspect_ai.model._retry.wait_exponential_jitter", lambda **_: wait_fixed(0.01))
    for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):
        monkeypatch.setattr(f"openai._base_client.{name}", 0.01)


def reply(prompt: str, number: int) -> Reply:
    """Nothing about the first row of data, nonsense about the second, and a verdict on the others."""
    row = row_of(prompt)
    if row == 0:
        return 200, "", "content_filter"
    return 200, "I would rather not say." if row == 1 else verdict(prompt), "stop"


def check(rows: tuple[Row, ...], task: Judged, all_graded: bool = False) -> None:
    """Compare each row's value, or why it has none, with what the judge said about its row of data; count them."""
    for row in rows:
        value = task.value(2 if all_graded else row_of(row.input), row.metric)
        assert (row.value, row.why) == ((None, value) if isinstance(value, str) else (value, "")), row
    counts = Counter((row.condition, row.metric) for row in rows)
    conditions = {row.condition for row in rows}
    assert counts == {(each, metric): 5 * task.samples for each in conditions for metric in task.graded}
    assert len(conditions) == 2


@pytest.mark.parametrize("name", JUDGED)
def test_every_row_has_its_value_or_its_reason(
    task: Judged, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsteady(prompt: str, number: int) -> Reply:
        return (500, "boom", "") if number % EVERY == 0 else reply(prompt, number)

    with judge(monkeypatch, unsteady) as served:
        check(evaluated("out", served.name).rows, task)
    answered = [prompt for number, prompt in enumerate(served.asked, 1) if number % EVERY]
    assert len(answered) == 2 * 5 * task.samples * task.calls < len(served.asked)  # once each, whatever failed


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_that_dies_is_named_and_comes_back(
    task: Judged, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 2 * 5 * task.samples * task.calls

    def dying(prompt: str, number: int) -> Reply:
        return reply(prompt, number) if number <= calls - task.calls else DEAD

    with (
        judge(monkeypatch, dying) as served,
        pytest.raises(WsteerError, match=f"the judge {served.name} does not answer: Connection error") as raised,
    ):
        evaluated("out", served.name)
    assert "\n" not in str(raised.value)
    with judge(monkeypatch, reply) as back:
        outcome = evaluated("out", back.name)
        assert 0 < len(back.asked) < calls
        assert outcome == evaluated("whole", back.name)
    check(outcome.rows, task)


@pytest.mark.parametrize("name", JUDGED)
def test_a_panel_grades_what_most_of_it_can(task: Judged, evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    def good(prompt: str, number: int) -> Reply:
        return 200, verdict(prompt), "stop"

    with (
        judge(monkeypatch, good, "one") as one,
        judge(monkeypatch, reply, "two") as two,
        judge(monkeypatch, good, "three") as three,
    ):
        check(evaluated("two", one.name, two.name).rows, task)
        outcome = evaluated("three", one.name, two.name, three.name)
    check(outcome.rows, task, all_graded=True)
    assert len(one.asked) == len(two.asked) == 2 * len(three.asked)
    assert not any("alone, and not" in warning for warning in outcome.warnings)


def test_what_judges_left_ungraded_is_an_exit_code_and_a_dead_judge_one_line(
    cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = JUDGED["harm_refusal"]
    say(monkeypatch, task.says)
    given = ["eval", inputs.tiny, "--task", "inspect:wsteer/harm_refusal"]
    given += [part for key, value in task.task_args(inputs.folder).items() for part in ("-T", f"{key}={value}")]

    def dying(prompt: str, number: int) -> Reply:
        return reply(prompt, number) if number < 5 * task.calls else DEAD

    with judge(monkeypatch, dying) as served:
        ran = cli(*given, "--judge", served.name, "-o", inputs.folder / "out")
        assert (ran.code, ran.out) == (1, "") and not (inputs.folder / "out").exists()
        assert f"the judge {served.name} does not answer: Connection error" in ran.error and "--resume" in ran.error
    with judge(monkeypatch, reply) as back:
        ran = cli(*given, "--judge", back.name, "-o", inputs.folder / "out", "--resume")
        assert ran.code == 1
        assert "harm_refusal, base: 2 of 5 rows of safety_rate have no score (filtered); see " in ran.error
        ran = cli(*given, "--judge", back.name, "-o", inputs.folder / "whole", "--max-unscored=0.4")
        assert ran.code == 0
    for name in ("rows.jsonl", "results.csv"):
        assert (inputs.folder / "out" / name).read_bytes() == (inputs.folder / "whole" / name).read_bytes()
    rows = [json.loads(line) for line in (inputs.folder / "out" / "rows.jsonl").read_text().splitlines()]
    whys = Counter(row["why"] for row in rows if row["metric"] == "safety_rate")
    assert whys == {"": 3, "filtered": 1, "unparsed": 1}
