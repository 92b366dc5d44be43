"""What stands of an experiment: which of its steps ran in a folder, told from their outputs, and why others did not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.demo.experiment import JUDGE, Command, Experiment, commands

OUTPUTS = ("-o", "--output")
RAN, LEFT_OUT, NOT_RUN = "ran", "left out", "not run"


@dataclass(frozen=True)
class Standing:
    """One step in a folder: its command and output, whether it ran, was left out or is still to be run, and why."""

    command: Command
    output: str | None
    state: str
    why: str = ""


def standing(experiment: Experiment, scale: str, folder: Path, model: str | None = None) -> list[Standing]:
    """The steps of an experiment at a scale, in order, as they stand in `folder`.

    A step that asks for a judge where there is none is left out, and so are those that need what it would have made.
    """
    found: list[Standing] = []
    lacking: dict[str, str] = {}  # outputs that are not made -> what would have made them
    for command in commands(experiment, scale, model):
        output = output_of(command.words)
        needed = next((name for name in lacking if _names(command.words, name)), None)
        if command.missing == JUDGE:
            state, why = LEFT_OUT, "it asks for a judge, and there is none: never graded by the model under test"
        elif needed is not None:
            state, why = LEFT_OUT, f"it needs {needed}, and the step that makes it is left out ({lacking[needed]})"
        elif output is not None and not (folder / output).exists():
            state, why = NOT_RUN, f"{output} is not in the folder"
        else:
            state, why = RAN, ""
        if state == LEFT_OUT and output is not None:
            lacking[output] = command.step.does
        found.append(Standing(command, output, state, why))
    return found


def output_of(words: Sequence[str]) -> str | None:
    """What a command writes, as its -o names it; None of a command without one."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in OUTPUTS:
            return following
        if word.startswith("--output="):
            return word.removeprefix("--output=")
    return None


def _names(words: Sequence[str], output: str) -> bool:
    """Whether a command reads an output of another: the file or folder, a part of it, or as a delta NAME=OUTPUT@..."""
    inside = re.compile(rf"(?:[^/]*=)?(?:\./)?{re.escape(output)}(?:[/@].*)?")
    return any(inside.fullmatch(word) for word in words if word != output_of(words))
