"""An experiment's commands checked before the first of them runs: every line parses, and every input will be there."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from wsteer.demo.commands import DATA, INSPECT, LM, OURS, OWN, TEXT, Input, Output, Parsed, Uses, placed, uses_of
from wsteer.demo.experiment import Command
from wsteer.demo.plan import named_outputs
from wsteer.elicitation.shipped_sets import shipped_sets
from wsteer.errors import WsteerError

Parse = Callable[[Sequence[str], Path], Parsed]
FOLDERS_OWN = ("wsteer.json", "report.html")  # names in the experiment's folder that no step may write
STDIN = ("-", "/dev/stdin")
EXTRAS = {"inspect_ai": "inspect", "lm_eval": "lm-eval", "datasets": "hub"}


@dataclass(frozen=True)
class CheckedStep:
    """A step with what its line was parsed to (None where it was not), and why it is left out, if it is."""

    number: int
    command: Command
    parsed: Parsed | None
    uses: Uses
    left_out: str | None = None


@dataclass(frozen=True)
class Brought:
    """What a user is to bring: its path from the folder, how to get it, and whether it is there."""

    path: str
    how: str
    present: bool


@dataclass(frozen=True)
class Checked:
    """The steps; what is wrong, each a line with the step's number; what is to be brought, and what the Hub gives."""

    steps: tuple[CheckedStep, ...]
    problems: tuple[str, ...]
    brought: tuple[Brought, ...]
    hub: tuple[str, ...]
    judges: tuple[str, ...]

    @property
    def missing(self) -> tuple[Brought, ...]:
        """What is to be brought and is not there."""
        return tuple(each for each in self.brought if not each.present)

    def refuse(self) -> None:
        """Raise a WsteerError with all problems, if there are any."""
        if self.problems:
            raise WsteerError("; ".join(self.problems))


def check(commands: Sequence[Command], bring: Mapping[str, str], folder: Path, model: str, parse: Parse) -> Checked:
    """Check the commands of an experiment that is to run in `folder`, which need not be there.

    `bring` has what the user fetches, by its path from the folder; `model` is what the commands have for their model.
    Steps that ask for a judge where there is none are left out, and those that need what such a step makes.
    """
    checking = _Checking(bring, folder, model, parse, {}, [], [], [])
    steps = [checking.read(number, command) for number, command in enumerate(commands, 1)]
    steps = [checking.step(step, steps) for step in steps]
    needed = [each for each in bring if each in checking.used]
    brought = [Brought(each, bring[each], placed(folder, each).exists()) for each in needed]
    judges = [
        judge
        for step in steps
        if step.parsed is not None and step.left_out is None
        for judge in step.parsed.values.get("judge") or ()
    ]
    return Checked(
        tuple(steps),
        tuple(f"step {number}: {text}" for number, texts in sorted(checking.problems.items()) for text in texts),
        tuple(brought),
        tuple(dict.fromkeys(checking.hub)),
        tuple(dict.fromkeys(judges)),
    )


@dataclass(frozen=True)
class _Checking:
    bring: Mapping[str, str]
    folder: Path
    model: str
    parse: Parse
    problems: dict[int, list[str]]
    used: list[str]  # keys of `bring` that a step needs
    hub: list[str]
    left_out: list[int]

    def tell(self, number: int, text: str) -> None:
        known = self.problems.setdefault(number, [])
        if text not in known:
            known.append(text)

    def read(self, number: int, command: Command) -> CheckedStep:
        """A step with its line parsed, and what it uses."""
        try:
            parsed = self.parse(command.words, self.folder)
            if parsed.command == "demo" and not parsed.values.get("report"):
                raise WsteerError("wsteer demo is no step of an experiment, but with --report")
            return CheckedStep(number, command, parsed, uses_of(parsed, self.folder))
        except WsteerError as error:
            self.tell(number, f"wsteer {' '.join(command.words[:1])}: {error}")
            return CheckedStep(number, command, None, Uses((), ()))

    def step(self, step: CheckedStep, steps: Sequence[CheckedStep]) -> CheckedStep:
        """The step, left out where it must be; what is wrong with its inputs and outputs is told."""
        number, before, after = step.number, steps[: step.number - 1], steps[step.number :]
        for output in step.uses.outputs:
            for text in self._wrong_output(output, step.command.words, before):
                self.tell(number, text)
        why = f"there is no {step.command.missing}" if step.command.missing else None
        for each in step.uses.inputs:
            maker = _maker(each.name, before)
            if why is None and maker is not None and maker.number in self.left_out:
                why = f"it needs {each.name}, which step {maker.number} would make"
        if why is not None:
            self.left_out.append(number)
            return CheckedStep(number, step.command, step.parsed, step.uses, why)
        for each in step.uses.inputs:
            if (wrong := self._wrong_input(each, before, after)) is not None:
                self.tell(number, wrong)
        for module in _modules(step.parsed):
            if importlib.util.find_spec(module) is None:
                self.tell(number, f"it needs {module}: pip install 'wsteer[{EXTRAS[module]}]'")
        return step

    def _wrong_output(self, output: Output, words: Sequence[str], before: Sequence[CheckedStep]) -> Iterator[str]:
        path = output.path
        if "*" in path:
            yield f"{path} has a *, and commands run without a shell; name what is written"
        elif leaves(path) or os.path.isabs(path):
            yield f"it writes {path}, which is not in the experiment's folder; name a path there"
        elif any(_within(path, own) for own in FOLDERS_OWN):
            yield f"it writes {path}, which is the experiment's own; give -o another name"
        elif not any(_within(path, each) for each in named_outputs(words)[0]):
            yield f"it writes {path}, which its line does not name; give it -o {path}"
        for step in before:
            for other in step.uses.outputs:
                if _within(path, other.path) or _within(other.path, path):
                    yield f"it writes {path}, and step {step.number} writes {other.path} already; give -o another name"

    def _wrong_input(self, given: Input, before: Sequence[CheckedStep], after: Sequence[CheckedStep]) -> str | None:
        """What is wrong with an input, if anything is."""
        name, what = given.name, f"{given.name} ({given.role})"
        if given.kind == OWN:
            return _wrong_name(given)
        if name in STDIN:
            return f"{what} is standard input, which an experiment has not; name a file"
        if "*" in name and given.kind != TEXT and not placed(self.folder, name).exists():
            return f"{what} has a *, and commands run without a shell; name each path"
        if self._is_brought(name):
            return None
        if leaves(name) and given.kind != TEXT:
            return f"{what} is outside of the experiment's folder; list it under bring, with how to get it"
        if (maker := _maker(name, before)) is not None:
            return _wrong_content(given, maker)
        if (maker := _inside(name, before)) is not None:
            if maker.number in self.problems:  # which tell why it is not known what it writes
                return None
            return f"step {maker.number} never writes {what}; it may write {_listed(maker, name)}"
        if (maker := _maker(name, after) or _inside(name, after)) is not None:
            return f"{what} is made only later, by step {maker.number}; change the order"
        return None if self._is_there(given) else f"{what} does not exist, and no earlier step makes it"

    def _is_there(self, given: Input) -> bool:
        """Whether an input needs no other step: it is the model, a text, a file that is there, or on the Hub."""
        if given.name == self.model or given.kind == TEXT:
            self.hub.extend([given.name] if given.hub and not placed(self.folder, given.name).exists() else [])
            return True
        if placed(self.folder, given.name).exists():
            return True
        self.hub.extend([given.name] if given.hub else [])
        return given.hub

    def _is_brought(self, name: str) -> bool:
        """Whether the path is an entry of `bring`, or in one."""
        plain = os.path.normpath(name)
        found = [key for key in self.bring if _within(plain, os.path.normpath(key))]
        self.used.extend(found)
        return bool(found)


def leaves(path: str) -> bool:
    """Whether a relative path leads out of the folder that it starts in, at its end or on the way."""
    parts, depth = path.split("/"), 0
    for part in parts if not os.path.isabs(path) else ():
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return False


def _within(path: str, other: str) -> bool:
    """Whether the path is the other one, or in it."""
    return path == other or path.startswith(f"{other}/")


def _maker(name: str, steps: Sequence[CheckedStep]) -> CheckedStep | None:
    """The first step that makes what the name stands for, or a part of a folder of that name."""
    outputs = [(step, each) for step in steps for each in step.uses.outputs]
    return next((step for step, each in outputs if each.makes(name) or _within(each.path, name)), None)


def _inside(name: str, steps: Sequence[CheckedStep]) -> CheckedStep | None:
    """The step in whose folder the name is."""
    return next((step for step in steps for each in step.uses.outputs if _within(name, each.path)), None)


def _wrong_content(given: Input, maker: CheckedStep) -> str | None:
    """What a folder that an earlier step makes lacks."""
    files = [file for each in maker.uses.outputs if each.path == given.name for file in each.files]
    files += [each.path.removeprefix(f"{given.name}/") for each in maker.uses.outputs if each.path != given.name]
    if given.holds is None or any(fnmatchcase(file.partition("/")[0], given.holds) for file in files):
        return None
    return f"{given.name} of step {maker.number} will hold no {given.holds}; give wsteer finetune --save-every there"


def _listed(maker: CheckedStep, name: str) -> str:
    """The files of the maker's output that the name is in, shortened."""
    (files,) = [each.files for each in maker.uses.outputs if _within(name, each.path)][:1] or [()]
    shown = [file for file in files if file != "wsteer.json"][:8]
    return ", ".join(shown) if shown else "one file alone"


def _wrong_name(given: Input) -> str | None:
    """What is wrong with a name of wsteer's own."""
    if given.role == "set" and given.name != "gcd" and given.name not in (known := shipped_sets()):
        return f"there is no set {given.name!r}; there are gcd, {', '.join(known)}"
    if given.role == "task" and given.name.startswith(OURS):
        name = given.name.removeprefix(OURS)
        paper = Path(__file__).parents[1] / "evaluation" / "paper"
        if not name.isidentifier() or not (paper / f"{name}.py").is_file():
            return f"wsteer has no task {given.name!r}"
    return None


def _modules(parsed: Parsed | None) -> Iterator[str]:
    """The libraries beyond wsteer's own needs that a command imports."""
    if parsed is None:
        return
    tasks = parsed.values.get("task") or ()
    if parsed.values.get("judge") or any(task.startswith(INSPECT) for task in tasks):
        yield "inspect_ai"
    if any(task.startswith(LM) for task in tasks):
        yield "lm_eval"
    if any(each.kind == DATA and each.hub for each in uses_of(parsed, Path()).inputs):
        yield "datasets"
