"""Tasks of inspect_ai on SmolLM2-135M-Instruct: the texts of the steered checkpoint, by its provider and by ours."""

from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.inspect_tasks import check_four_prompts
from wsteer.deltas.delta import Delta
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.inspection.inspection import run
from wsteer.evaluation.subject import Subject
from wsteer.steering.loading import load

inspect_ai = pytest.importorskip("inspect_ai")
pytestmark = pytest.mark.real

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes

CITIES = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid", "Egypt": "Cairo", "Peru": "Lima"}


@task
def capitals():
    samples = [Sample(id=name, input=f"What is the capital of {name}?", target=city) for name, city in CITIES.items()]
    return Task(MemoryDataset(samples), scorer=includes(), config=GenerateConfig(max_tokens=20))
"""


@pytest.fixture(scope="module")
def steered(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, list[Condition], Path]:
    """The model, a random change of its middle blocks at k = 0 and 1, and the checkpoint that steer writes of it."""
    folder = tmp_path_factory.mktemp("steered")
    loaded, generator = load(smollm2, "cpu"), torch.Generator().manual_seed(0)
    changes = {
        name: 0.15 * float(each.std()) * torch.randn(each.shape, generator=generator)
        for name, each in loaded.model.named_parameters()
        if any(f"layers.{block}." in name for block in range(10, 16)) and each.ndim == 2
    }
    delta = Delta.of_tensors(changes)
    delta.save(folder / "w.safetensors")
    wsteer.steer(smollm2, folder / "w.safetensors", k=1, output=folder / "out")
    conditions = [Condition(BASE), Condition("w", k=1.0, delta="d")]
    return Subject(loaded, {conditions[1].name: delta}), conditions, folder


def test_answers_are_those_of_the_steered_checkpoint(steered: tuple[Subject, list[Condition], Path]) -> None:
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import get_model

    subject, conditions, folder = steered
    task = folder / "capitals.py"
    task.write_text(TASK)
    rows = run([str(task)], subject, conditions, [], folder / "logs").rows
    base, ours = ({row.group: row.answer for row in rows if row.condition == each.name} for each in conditions)
    assert base != ours
    float32 = {"model_path": str(folder / "out"), "device": "cpu", "dtype": "float32", "do_sample": False}
    models = {
        "the checkpoint by our provider": get_model(f"wsteer/{folder / 'out'}", device="cpu"),
        "the checkpoint by inspect_ai's own": get_model("hf/steered", **float32),
    }
    for name, model in models.items():
        many = {} if "our" in name else {"max_connections": 1}
        (log,) = inspect_ai.eval(
            f"{task}@capitals", model=model, log_dir=str(folder / "others"), display="none", **many
        )
        samples = read_eval_log(log.location).samples
        assert {str(sample.id): sample.output.completion.strip() for sample in samples} == ours, name


def test_the_papers_task_has_the_counts_of_the_built_in_one(steered: tuple[Subject, list[Condition], Path]) -> None:
    subject, conditions, folder = steered
    assert check_four_prompts(subject, conditions, folder, limit=4) >= {0.0, 1.0}
