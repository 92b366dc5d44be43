"""Several prompts about one row of data: each is asked in a chat of its own, and the log shows all answers."""

from collections.abc import Mapping

from inspect_ai.model import ModelOutput, StopReason, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import collect

from wsteer.evaluation.inspection.logs import CUTS

ASKED, ANSWERS, CUT_ANSWERS = "asked", "answers", "cut_answers"  # of a sample's metadata, by the prompts' names


def listed(texts: Mapping[str, str]) -> str:
    """Texts under their names; as a sample's input they keep rows of other prompts from being paired."""
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


@solver
def each_prompt() -> Solver:
    """Ask each prompt that the sample's metadata has under `ASKED`.

    The metadata get the `ANSWERS` and, under `CUT_ANSWERS`, the names of those that a limit of tokens ended.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        asked: dict[str, str] = state.metadata[ASKED]
        outputs = dict(zip(asked, await collect(*map(get_model().generate, asked.values())), strict=True))
        answers = {name: each.completion for name, each in outputs.items()}
        reasons: list[StopReason] = [each.stop_reason for each in outputs.values() if each.stop_reason != "stop"]
        model, stopped = get_model().name, reasons[0] if reasons else "stop"
        state.output = ModelOutput.from_content(model, listed(answers), stopped)
        state.messages.append(state.output.message)
        state.metadata[ANSWERS] = answers
        state.metadata[CUT_ANSWERS] = [name for name, each in outputs.items() if each.stop_reason in CUTS]
        return state

    return solve
