"""Tasks of inspect_ai as files, and a tiny subject with conditions to run them on."""

from dataclasses import dataclass
from pathlib import Path

import torch

from wsteer.deltas.delta import Delta
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.subject import Subject
from wsteer.steering.loading import load

LETTERS = '''
"""Whether an answer has the letter e, in twelve samples of different lengths."""
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes, mean, model_graded_qa, scorer, Score


def samples(n=12):
    return MemoryDataset([Sample(id=f"s{i}", input=f"Say {i}. " * (1 + i % 4), target="e") for i in range(n)])


@task
def letters():
    return Task(samples(), scorer=includes(), config=GenerateConfig(max_tokens=6))


@task
def sampled():
    return Task(samples(), scorer=includes(), epochs=2, config=GenerateConfig(max_tokens=6, temperature=1.0))


@task
def graded():
    return Task(samples(), scorer=model_graded_qa(), config=GenerateConfig(max_tokens=6))


@task
def lenient():
    return Task(samples(), scorer=model_graded_qa(), fail_on_error=False, config=GenerateConfig(max_tokens=6))


@scorer(metrics={"*": [mean()]})
def several():
    async def score(state, target):
        number = int(state.sample_id[1:])
        if number == 1:
            return Score.unscored(reason="refusal", explanation="no")
        if number == 2:
            return None
        if number == 3:
            raise ValueError("three is too much")
        return Score(value={"length": 0.5 * number, "even": number % 2 == 0, "odd": None if number == 5 else "I"})

    return score


@task
def dicts():
    return Task(samples(7), scorer=several(), fail_on_error=False, config=GenerateConfig(max_tokens=4))


@task
def cached():
    return Task(samples(5), scorer=includes(), config=GenerateConfig(max_tokens=6, cache=True))
'''


@dataclass(frozen=True)
class Bench:
    """A tiny subject, its conditions (the base, w at k = -1, w at k = 1), and the tasks' file."""

    subject: Subject
    conditions: list[Condition]
    tasks: Path

    def task(self, name: str) -> str:
        return f"{self.tasks}@{name}"


def random_delta(subject: Path, scale: float = 0.5) -> Delta:
    """A change of all matrices of a model, big enough to change its text."""
    generator = torch.Generator().manual_seed(1)
    parameters = load(subject, "cpu").model.named_parameters()
    return Delta.of_tensors(
        {name: scale * torch.randn(each.shape, generator=generator) for name, each in parameters if each.ndim == 2}
    )


def bench(model: Path, folder: Path) -> Bench:
    """The tiny subject on `model`; the tasks' file is written to `folder`."""
    loaded, delta = load(model, "cpu"), random_delta(model)
    conditions = [Condition(BASE), *(Condition("w", k=k, delta="d") for k in (-1.0, 1.0))]
    subject = Subject(loaded, {condition.name: delta for condition in conditions[1:]}, batch_size=16)
    tasks = folder / "letters.py"
    tasks.write_text(LETTERS)
    return Bench(subject, conditions, tasks)
