"""An experiment's file: the commands of one of the paper's experiments, at two scales, and what its findings are."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsteer.demo.rules import read_rule
from wsteer.errors import WsteerError
from wsteer.files.yaml import read_yaml

SHIPPED = Path(__file__).parent
SCALES = ("small", "paper")
PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")  # of a value in a command; JSON has quotes behind its braces
JUDGE, MODEL = "judge", "model"
QUOTED = re.compile(r"""'[^']*'|"((?:\\.|[^"\\])*)"|\\.""", re.DOTALL)
FILLED_IN = re.compile(r"`|\$[\w({]")  # what a shell would put a value for, also in double quotes
OF_A_SHELL = re.compile(rf"[|&;<>()]|{FILLED_IN.pattern}")
PICTURES = "https://arxiv.org/"  # whence alone a report may load the paper's


@dataclass(frozen=True)
class Scale:
    """What differs between the scales: `about` tells what is not as in the paper, `values` fill the commands' places.

    `model` is among the values, and `judge` where there is one. `size` has facts of the model for the estimates, for a
    machine that cannot reach it: parameters, blocks, hidden, intermediate, vocabulary, key_values.
    """

    name: str
    about: str
    values: Mapping[str, str]
    size: Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """One command: what it does, in words, the section of the paper, and the command with places for values.

    `only` is the scale that it belongs to, None for both. Exit code 3 is no failure of a step whose `gate` is to fail.
    `rows` and `length` are for the estimates: rows of data, one number or one for each task of an evaluation, and
    tokens of a row, or of an answer at most.
    """

    does: str
    section: str
    run: str
    only: str | None = None
    gate: bool = False
    rows: tuple[int, ...] = ()
    length: int | None = None

    @property
    def each_rows(self) -> int | None:
        """The one number of rows, if it is one."""
        return self.rows[0] if len(self.rows) == 1 else None


@dataclass(frozen=True)
class Finding:
    """What the paper found, what stands for it here, and the rules by which they agree.

    `figures` are numbers in the paper, `images` addresses of its pictures, `axes` what both pictures show. `results` is
    the folder that has ours, `picture` the stem of its file there. `rules` are as they stand in the file: see
    `findings.py`.
    """

    name: str
    says: str
    section: str
    figures: str
    images: tuple[str, ...]
    axes: str
    results: str
    picture: str
    rules: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class Experiment:
    """One experiment, as its file has it. `bring` has what a user has to fetch: path in the folder -> how to get it."""

    path: Path
    title: str
    section: str
    scales: Mapping[str, Scale]
    bring: Mapping[str, str]
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """Its short name: that of its file."""
        return self.path.stem


@dataclass(frozen=True)
class Command:
    """A step at one scale: the words of its command, `wsteer` left out. `missing` is the value that it lacks."""

    step: Step
    words: tuple[str, ...]
    missing: str | None = None

    @property
    def text(self) -> str:
        """The command as one would type it."""
        return shlex.join(["wsteer", *self.words])


# ---- Experiments by name, and their commands at a scale


def shipped() -> list[str]:
    """The names of the experiments that come with wsteer."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_experiment(given: str | Path) -> Experiment:
    """The experiment of this name, or the one in a YAML file. Raises WsteerError with what is wrong in it."""
    path = Path(given)
    if str(given) in shipped():
        path = SHIPPED / f"{given}.yaml"
    elif path.suffix not in (".yaml", ".yml"):
        raise WsteerError(
            f"there is no experiment {str(given)!r}: there are {', '.join(shipped())}, or give a YAML file"
        )
    top = _table(path, "the file", read_yaml(path), {"title", "section", "steps"}, {*SCALES, "bring", "findings"})
    scales = {name: _scale(path, name, top[name]) for name in SCALES if name in top}
    if not scales:
        raise WsteerError(f"{path}: an experiment has a table small or paper with its model and other values")
    bring = {
        key: _text(path, f"bring {key}", value)
        for key, value in _table(path, "bring", top.get("bring", {}), set(), None).items()
    }
    if not _list(path, "steps", top["steps"]):
        raise WsteerError(f"{path}: steps is empty; an experiment has one command or more")
    found = Experiment(
        path,
        _text(path, "title", top["title"]),
        _text(path, "section", top["section"]),
        scales,
        bring,
        tuple(_step(path, number, each) for number, each in enumerate(_list(path, "steps", top["steps"]), 1)),
        tuple(_finding(path, each) for each in _list(path, "findings", top.get("findings", []))),
    )
    for scale in scales:
        commands(found, scale)  # every place has a value
    return found


def commands(experiment: Experiment, scale: str, model: str | None = None) -> list[Command]:
    """The commands of an experiment at a scale, in order; `model` takes the place of the file's.

    A step that asks for a judge where the scale has none is there with what it lacks as `missing`. Raises WsteerError
    for a scale that the file lacks, for a place without a value, and for a line that is no command of wsteer.
    """
    if scale not in experiment.scales:
        raise WsteerError(f"{experiment.path} has no scale {scale!r}; it has {', '.join(experiment.scales)}")
    values = {**experiment.scales[scale].values, **({MODEL: model} if model is not None else {})}
    steps = [step for step in experiment.steps if step.only in (None, scale)]
    return [_command(experiment.path, step, values) for step in steps]


def _command(path: Path, step: Step, values: Mapping[str, str]) -> Command:
    missing = [name for name in PLACE.findall(step.run) if name not in values]
    if unknown := [name for name in missing if name != JUDGE]:
        raise WsteerError(f"{path}: {step.run[:80]!r} has a place {{{unknown[0]}}}, for which the scale gives no value")

    def filled(found: re.Match[str]) -> str:
        name = found[1]
        # a model's path is one word, whatever is in it; other values may be several options
        return shlex.quote(values[name]) if name == MODEL else values.get(name, found[0])

    line = PLACE.sub(filled, step.run)
    if (mark := _of_a_shell(line)) is not None:
        raise WsteerError(
            f"{path}: {step.run[:80]!r} has {mark!r}, and commands run without a shell; if it is text, quote it"
        )
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise WsteerError(f"{path}: {step.run[:80]!r} is no line of a shell: {error}") from None
    if words[:1] != ["wsteer"] or len(words) < 2:
        raise WsteerError(f"{path}: {step.run[:80]!r} does not begin with wsteer and a command")
    return Command(step, tuple(words[1:]), missing[0] if missing else None)


def _of_a_shell(line: str) -> str | None:
    """The first thing in a line that a shell would act on: a pipe, a redirection, a variable; None if there is none."""

    def unquoted(found: re.Match[str]) -> str:
        return " ".join(FILLED_IN.findall(re.sub(r"\\.", "", found[1] or "", flags=re.DOTALL)))

    mark = OF_A_SHELL.search(QUOTED.sub(unquoted, line))
    return None if mark is None else mark[0]


# ---- Parts of the file, checked


def _scale(path: Path, name: str, value: object) -> Scale:
    given = dict(_table(path, name, value, {MODEL}, None))
    size = _table(path, f"size of {name}", given.pop("size", {}), set(), None)
    numbers = {key: each for key, each in size.items() if type(each) in (int, float)}
    if len(numbers) < len(size):
        raise WsteerError(f"{path}: size of {name} has numbers alone")
    about = _text(path, f"about of {name}", given.pop("about", ""))
    values = {key: _value(path, f"{key} of {name}", each) for key, each in given.items()}
    return Scale(name, about, values, numbers)


def _step(path: Path, number: int, value: object) -> Step:
    what = f"step {number}"
    given = _table(path, what, value, {"does", "run"}, {"section", "only", "gate", "rows", "length"})
    only, gate = given.get("only"), given.get("gate", False)
    if only not in (None, *SCALES):
        raise WsteerError(f"{path}: only of {what} is a scale, {' or '.join(SCALES)}")
    if type(gate) is not bool:
        raise WsteerError(f"{path}: gate of {what} is true or false")
    rows = given["rows"] if isinstance(given.get("rows"), list) else [given["rows"]] if "rows" in given else []
    numbers = {"rows": rows, "length": [given["length"]] if "length" in given else []}
    for name, each in numbers.items():
        if (name in given and not each) or any(type(number) is not int or number < 1 for number in each):
            raise WsteerError(f"{path}: {name} of {what} is a whole number from 1 on")
    texts = {name: _text(path, f"{name} of {what}", given.get(name, "")) for name in ("does", "section", "run")}
    return Step(**texts, only=only, gate=gate, rows=tuple(rows), length=given.get("length"))


def _finding(path: Path, value: object) -> Finding:
    required = {"name", "says", "section", "figures", "axes", "results", "picture", "rules"}
    given = _table(path, "a finding", value, required, {"images"})
    what = f"finding {given['name']!r}"
    images = tuple(_text(path, f"images of {what}", each) for each in _list(path, what, given.get("images", [])))
    rules = _list(path, f"rules of {what}", given["rules"])
    if not rules or not all(isinstance(each, dict) for each in rules):
        raise WsteerError(f"{path}: {what} has no rules, which are a list of tables")
    try:
        for each in rules:
            read_rule(each)
    except WsteerError as error:
        raise WsteerError(f"{path}: {what}: {error}") from None
    if elsewhere := [each for each in images if not each.startswith(PICTURES)]:
        raise WsteerError(f"{path}: {what} has a picture at {elsewhere[0][:80]!r}; it must begin with {PICTURES}")
    texts = {key: _value(path, f"{key} of {what}", given[key]) for key in sorted(required - {"rules"})}
    inside = Path(texts["results"])
    if inside.is_absolute() or ".." in inside.parts or Path(texts["picture"]).name != texts["picture"]:
        raise WsteerError(f"{path}: results of {what} is a folder in the experiment's, and picture the stem of a file")
    return Finding(**texts, images=images, rules=tuple(rules))


def _table(path: Path, what: str, value: object, required: set[str], others: set[str] | None) -> Mapping[str, Any]:
    """A mapping with the keys `required` and at most `others` beside them; None: with any."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WsteerError(f"{path}: {what} must be a table of names")
    if lacking := sorted(required - value.keys()):
        raise WsteerError(f"{path}: {what} lacks {', '.join(lacking)}")
    if others is not None and (unknown := sorted(value.keys() - required - others)):
        known = ", ".join(sorted(required | others))
        raise WsteerError(f"{path}: {what} has no {unknown[0]!r}; it may have {known}")
    return value


def _list(path: Path, what: str, value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        raise WsteerError(f"{path}: {what} must be a list")
    return value


def _text(path: Path, what: str, value: object) -> str:
    if not isinstance(value, str):
        raise WsteerError(f"{path}: {what} is no text; put it in quotes")
    return value


def _value(path: Path, what: str, value: object) -> str:
    """A text or a number, as it stands in a command."""
    if type(value) in (int, float):
        return f"{value:g}" if type(value) is float else str(value)
    return _text(path, what, value)
