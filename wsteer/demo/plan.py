"""An experiment's steps at a scale: what each reads and makes, and which are left out, by name and with the reason."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.demo.experiment import JUDGE, MODEL, SHIPPED, Command, Experiment, Step, commands
from wsteer.errors import WsteerError
from wsteer.files.provenance import recordable

REPORT = "report.html"
MAKES = ("-o", "--output", "--export", "--spectrum", "--picture")  # options whose value is what a command writes


@dataclass(frozen=True)
class Planned:
    """A step: its command, what that may read and what it makes, as the command names it; why it is left out."""

    command: Command
    text: str  # as records have it: without the folder that the model lies in
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    left_out: str | None = None

    def words(self, follow_links: bool = False) -> list[str]:
        """The command's words, with --follow-links where it is asked for, and the command has it."""
        of_data = self.command.words[0] == "generate" and f"{{{MODEL}}}" not in self.command.step.run
        has_model = self.command.words[0] != "report" and not of_data
        return [*self.command.words, *(["--follow-links"] if follow_links and has_model else [])]

    @property
    def name(self) -> str:
        """The step by what it makes, as `eval -> results`."""
        made = f" -> {', '.join(self.outputs)}" if self.outputs else ""
        return f"{self.command.words[0]}{made}"


def plan(experiment: Experiment, scale: str, model: str | None = None) -> list[Planned]:
    """The steps of an experiment at a scale, in order, with `model` instead of the file's; the report as the last.

    Left out are steps without a judge where the scale has none, and those that need what such a step makes.
    """
    found: list[Planned] = []
    texts = commands(experiment, scale, None if model is None else recordable(model))
    for command, text in zip(commands(experiment, scale, model), texts, strict=True):
        each = _planned(command, text.text)
        found.append(replace(each, left_out=_reason(each, found)))
    found = [replace(each, inputs=_earlier(each, found[number:])) for number, each in enumerate(found)]
    if experiment.findings:
        found.append(_report(experiment, scale, found))
    return found


def model_of(experiment: Experiment, scale: str, given: str | None = None) -> str:
    """The model of an experiment at a scale; `given` takes the place of the file's."""
    commands(experiment, scale)  # tells of a scale that it lacks
    return given or experiment.scales[scale].values[MODEL]


def as_argument(experiment: Experiment) -> str:
    """The experiment as a command names it from another folder."""
    return experiment.name if experiment.path.parent == SHIPPED else str(experiment.path.resolve())


def _report(experiment: Experiment, scale: str, steps: Sequence[Planned]) -> Planned:
    step = Step("The paper's findings beside ours, and whether they agree", experiment.section, "")
    given = ("demo", as_argument(experiment), "--scale", scale, "--report", "-o", ".")
    text = f"wsteer demo {experiment.path.name} --scale {scale} --report -o ."
    made = [each for step in steps for each in step.outputs]
    return Planned(Command(step, given), text, (str(experiment.path.resolve()), *made), (REPORT,))


def _reason(step: Planned, before: Sequence[Planned]) -> str | None:
    """Why a step is left out, if it is."""
    if step.command.missing is not None:
        return f"there is no {step.command.missing}" if step.command.missing != JUDGE else "there is no judge"
    for each in before:
        if each.left_out is None:
            continue
        for made in each.outputs:
            if any(_lies_in(given, made) for given in step.inputs):
                return f"it needs {made}, which is left out"
    return None


def _earlier(step: Planned, onwards: Sequence[Planned]) -> tuple[str, ...]:
    """The step's inputs without what it or a later step makes: such a word is a trait or a preset of that name."""
    made = [each for later in onwards for each in later.outputs]
    return tuple(given for given in step.inputs if not any(_lies_in(given, each) for each in made))


def _lies_in(path: str, made: str) -> bool:
    return Path(path) == Path(made) or Path(made) in Path(path).parents


# ---- What a command reads and makes


def _planned(command: Command, text: str) -> Planned:
    outputs, others = named_outputs(command.words)
    if outside := [each for each in outputs if not is_inside(each)]:
        raise WsteerError(
            f"{text[:80]!r} writes {outside[0]!r}, which is not in the experiment's folder; name one there"
        )
    inputs = dict.fromkeys(each for word in others for each in _paths(word))
    return Planned(command, text, tuple(inputs), tuple(outputs))


def named_outputs(command: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a command's words name as its outputs, and the other words."""
    outputs, others = [], []
    words = iter(command[1:])
    for word in words:
        option, equals, value = word.partition("=")
        if option in MAKES:
            outputs.append(value if equals else next(words, ""))
        elif word.startswith("-o"):
            outputs.append(word[2:])
        else:
            others.append(word)
    return [str(Path(each)) if each else each for each in outputs], others


def is_inside(path: str) -> bool:
    """Whether a path is one within a folder, and not the folder itself."""
    return bool(path) and not os.path.isabs(path) and os.path.normpath(path).split(os.sep)[0] not in ("..", ".")


def _paths(word: str) -> Iterator[str]:
    """What may be a path in a word: without an option or a name before it, and layers or a weight behind it."""
    for whole in (word, *(word.split(",") if "," in word else ())):
        for each in (whole, *(whole.split("=", number)[-1] for number in range(1, whole.count("=") + 1))):
            for path in (each, each.rpartition("@")[0], re.sub(r":[0-9.]+$", "", each)):
                if path and not path.startswith("-"):
                    yield path
