"""The paper's judged tasks on SmolLM2-135M-Instruct and a checkpoint of its sweep, behind `transformers serve`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli
from tests.helpers.judge import Reply, judge
from tests.helpers.paper_tasks import JUDGED, row_of, verdict
from tests.helpers.served import transformers_serve
from wsteer.deltas.delta import Delta
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.inspection.inspection import run
from wsteer.evaluation.inspection.references import loaded
from wsteer.evaluation.reading import read
from wsteer.evaluation.subject import Subject
from wsteer.steering.loading import load

inspect_ai = pytest.importorskip("inspect_ai")
pytestmark = pytest.mark.real
TASKS = (*JUDGED, "evil_mcqa")
ROWS, TOKENS = 2, 8  # of each task, of each answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def delta(smollm2: str, folder: Path) -> Delta:
    """A random change of a few blocks, and its sweep: the checkpoint w/k1."""
    generator = torch.Generator().manual_seed(0)
    changes = {
        name: 0.15 * float(each.std()) * torch.randn(each.shape, generator=generator)
        for name, each in load(smollm2, "cpu").model.named_parameters()
        if any(f"layers.{block}." in name for block in range(10, 16)) and each.ndim == 2
    }
    delta = Delta.of_tensors(changes)
    delta.save(folder / "w.safetensors")
    wsteer.steer(smollm2, folder / "w.safetensors", sweep=[1], output=folder / "w")
    return delta


@pytest.fixture(scope="module")
def models(smollm2: str, folder: Path, delta: Delta) -> Iterator[list[str]]:
    """The names by which inspect_ai asks the server for the base and for the swept checkpoint."""
    with transformers_serve(folder) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_API_KEY", "none")
        patch.setenv("LOCAL_BASE_URL", address)
        yield [f"openai-api/local/{path}" for path in (smollm2, folder / "w" / "k1")]


def reply(prompt: str, number: int) -> Reply:
    """A verdict on all rows of data but the first."""
    return (200, verdict(prompt), "stop") if row_of(prompt) else (200, "", "content_filter")


def task_args(folder: Path) -> dict[str, object]:
    """The arguments of all tasks, by their names; `evil_mcqa` takes the data of `cot_consistency`."""
    given = {name: {**task.task_args(folder), "max_tokens": TOKENS} for name, task in JUDGED.items()}
    given["evil_mcqa"] = {"data": given["cot_consistency"]["data"], "max_tokens": TOKENS}
    return {f"{name}.{key}": value for name, each in given.items() for key, value in each.items()}


@pytest.fixture(scope="module")
def logs(models: list[str], folder: Path) -> Path:
    """Logs of all tasks on both models."""
    arguments = task_args(folder)
    tasks = loaded([f"wsteer/{name}" for name in TASKS], arguments)
    with pytest.MonkeyPatch.context() as patch, judge(patch, reply) as served:
        given = {"model_roles": {"grader": served.name}, "limit": ROWS, "log_dir": str(folder / "logs")}
        inspect_ai.eval(tasks, model=models, display="none", **given)
    return folder / "logs"


def test_a_report_shows_served_models_as_conditions(logs: Path, folder: Path, cli: Cli) -> None:
    ran = cli("report", logs, "-o", folder / "report.html", "--json")
    assert ran.code == 1, ran.err  # half of what judges were to grade is ungraded
    found = ran.json
    labels = [each["label"] for each in found["conditions"]]
    assert labels == ["base", "w k=1"]
    assert 0, ran


def test_answers_are_those_of_wsteer_itself(smollm2: str, delta: Delta, logs: Path, folder: Path) -> None:
    conditions = [Condition(BASE), Condition("w", k=1.0, delta="d")]
    subject = Subject(load(smollm2, "cpu"), {conditions[1].name: delta})
    with pytest.MonkeyPatch.context() as patch, judge(patch, reply) as served:
        arguments = {key: value for key, value in task_args(folder).items() if key.startswith("harm_refusal.")}
        given = ["wsteer/harm_refusal"], subject, conditions, [served.name], folder / "own"
        own = run(*given, task_args=arguments, limit=ROWS).rows
    found = read([logs])
    ours = [[row.answer for row in own if (row.condition, row.metric) == (each.name, "refused")] for each in conditions]
    served = [
        [
            row.answer
            for row in found.rows
            if (row.task, row.condition, row.metric) == ("harm_refusal", each.name, "refused")
        ]
        for each in found.conditions
    ]
    assert ours == served and ours[0] != ours[1]
