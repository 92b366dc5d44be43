"""The paper's judged tasks on SmolLM2-135M-Instruct and a checkpoint of its sweep, behind `transformers serve`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli
from tests.helpers.judge import Reply, judge
from tests.helpers.paper_tasks import JUDGED, verdict
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
ROWS, TOKENS = 1, 8  # of each task, of each answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def delta(smollm2: str, folder: Path) -> Delta:
    """A random change of a few blocks, and its sweep: the checkpoint w/k1."""
    generator = torch.Generator().manual_seed(0)
    changes = {
        name: 0.15 * float(each.detach().std()) * torch.randn(each.shape, generator=generator)
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
    return 200, verdict(prompt), "stop"


def task_args(folder: Path) -> dict[str, object]:
    """The arguments of all tasks, by their names; `evil_mcqa` takes the data of `cot_consistency`."""
    given = {name: {**task.task_args(folder), "max_tokens": TOKENS} for name, task in JUDGED.items()}
    given["evil_mcqa"] = {"data": given["cot_consistency"]["data"], "max_tokens": TOKENS}
    return {f"{name}.{key}": value for name, each in given.items() for key, value in each.items()}


@pytest.fixture(scope="module")
def logs(models: list[str], folder: Path) -> Path:
    """Logs of all tasks on both models."""
    tasks = loaded([f"wsteer/{name}" for name in TASKS], task_args(folder))
    with pytest.MonkeyPatch.context() as patch, judge(patch, reply) as served:
        given = {"model_roles": {"grader": served.name}, "limit": ROWS, "log_dir": str(folder / "logs")}
        inspect_ai.eval(tasks, model=models, display="none", **given)
    return folder / "logs"


def test_a_report_shows_served_models_as_conditions(logs: Path, folder: Path, cli: Cli) -> None:
    ran = cli("report", logs, "-o", folder / "report.html", "--json")
    assert ran.code == 0, ran.err
    assert [each["label"] for each in ran.json["conditions"]] == ["base", "w k=1"]
    found = read([logs])
    rows = {(row.task, row.condition) for row in found.rows}
    assert rows == {(task, each.name) for task in TASKS for each in found.conditions}
    assert not any(row.why.startswith("failed") for row in found.rows)
    page = (folder / "report.html").read_text()
    assert all(task in page for task in TASKS) and "w k=1" in page
    # the server heeds a temperature only where a checkpoint's generation_config.json has do_sample
    assert any("emergent_misalignment asks each sample 2 times, and all answers" in each for each in found.warnings)


def test_answers_are_those_of_wsteer_itself(smollm2: str, delta: Delta, logs: Path, folder: Path) -> None:
    conditions = [Condition(BASE), Condition("w", k=1.0, delta="d")]
    subject = Subject(load(smollm2, "cpu"), {conditions[1].name: delta})
    greedy = [task for task in TASKS if task not in ("emergent_misalignment", "trait")]
    arguments = {key: value for key, value in task_args(folder).items() if key.partition(".")[0] in greedy}
    with pytest.MonkeyPatch.context() as patch, judge(patch, reply) as served:
        names = [f"wsteer/{task}" for task in greedy]
        own = run(names, subject, conditions, [served.name], folder / "own", task_args=arguments, limit=ROWS)
    found = read([logs])
    asked = [
        {
            (row.task, row.id): row.answer.split()
            for row in rows
            if row.task in greedy and row.condition == condition.name
        }
        for rows, listed in ((own.rows, conditions), (found.rows, found.conditions))
        for condition in listed
    ]
    assert asked[:2] == asked[2:] and asked[0] != asked[1]
    assert {task for task, _ in asked[0]} == set(greedy)


def test_the_command_of_inspect_takes_a_served_model_and_a_served_judge(models: list[str], folder: Path) -> None:
    given = {**JUDGED["trait"].task_args(folder), "max_tokens": TOKENS, "samples": 1, "opinion": False}
    arguments = [part for key, value in given.items() for part in ("-T", f"{key}={json.dumps(value)}")]
    grader = json.dumps({"model": models[0], "temperature": 0, "max_tokens": TOKENS})
    command = [Path(sys.executable).with_name("inspect"), "eval", "wsteer/trait", "--model", models[1], *arguments]
    command += [
        "--model-role",
        f"grader={grader}",
        "--limit",
        "1",
        "--display",
        "plain",
        "--log-dir",
        folder / "command",
    ]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = read([folder / "command"], base="w k=1")
    assert {row.metric for row in found.rows} == {"trait", "coherence", "refused"}
    assert all(row.answer for row in found.rows)
