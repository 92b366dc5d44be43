"""Answers from elsewhere, scored by judges as the task `trait` scores a model's: the trait, and coherence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.solver import Generate, Solver, TaskState, solver

from wsteer.evaluation.inspection.inspection import run_judges
from wsteer.evaluation.inspection.logs import DECLARED
from wsteer.evaluation.paper.scales import COHERENCE
from wsteer.evaluation.paper.trait import MEASURES, shows

Given = tuple[str, str]  # (question, answer)
Rating = tuple[float | None, str]  # (a score from 0 to 100, or None, and why there is none)


def rate(
    answers: Mapping[str, Given], eval_prompt: str, judges: Sequence[str], folder: Path
) -> dict[tuple[str, str], Rating]:
    """The judges' ratings by (the answer's name, "trait" or "coherence").

    `eval_prompt` is a trait file's, with {question} and {answer}; a refusal is OUTSIDE of the scale. The log goes into
    `folder`; what it holds of an interrupted run is not asked again. Raises WsteerError for a judge that fails.
    """
    prompts = {"trait": eval_prompt, "coherence": COHERENCE}
    samples = [Sample(id=name, input=asked, metadata={"answer": said}) for name, (asked, said) in answers.items()]
    task = Task(
        MemoryDataset(samples),
        name="ratings",
        solver=given(),
        scorer=shows(prompts),
        metadata={DECLARED: MEASURES},
    )
    log = run_judges(task, judges, folder)
    return {(row.group, row.metric): (row.value, row.why) for row in log.rows if row.metric in prompts}


@solver
def given() -> Solver:
    """Takes the sample's own answer for the model's."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("given", state.metadata["answer"])
        return state

    return solve
