"""Tasks in YAML: the prompts for each row of data, how answers become numbers, and what the numbers stand for."""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsteer.errors import WsteerError
from wsteer.evaluation.rows import Measure
from wsteer.evaluation.tasks.facts import ANSWERS
from wsteer.evaluation.tasks.scoring import SCORERS
from wsteer.files.yaml import read_yaml

BUILT_IN = Path(__file__).parent
MOST_NAME = 200  # characters of a name
MOST_TOKENS = 10**6
MOST_OPTIONS = 100
KEYS = {"name", "description", "data", "max_new_tokens", "prompts", "choices", "metrics", "tradeoff"}
REQUIRED = {"name", "data", "metrics"}

Kind = Literal["share", "mean"]
Role = Literal["behaviour", "capability"]
ROLES: dict[str, Role] = {"x": "capability", "y": "behaviour"}  # of the trade-off's axes
# What a metric may be of one prompt's answer or of one choice, beside a share of verdicts: how its values become one
# number, and their unit.
OF_ANSWERS: dict[str, tuple[Kind, str]] = {
    **{f"distinct_{n}": ("mean", f"distinct {n}-grams / {n}-grams") for n in (1, 2, 3)},
    "repeated_4grams": ("mean", "repeated 4-grams / 4-grams"),
    "tokens": ("mean", "tokens"),
    "finished": ("share", ""),
}
OF_CHOICES: dict[str, tuple[Kind, str]] = {
    "chosen": ("share", ""),
    "margin": ("mean", "nats"),
    "mass": ("mean", "probability"),
    "first": ("share", ""),
}
AMONG = ("among", "among_base")


@dataclass(frozen=True)
class Prompt:
    """One way of asking: a template of the user's turn, and the scorer of the answer, if one is to grade it."""

    user: str
    score: str | None = None


@dataclass(frozen=True)
class Choice:
    """One way of asking with options, each scored by the probability that the model gives it.

    `user` and `answer` are templates, `options` are templates or the name of a field that lists them. The model says
    the option itself, or the label in its place; `start` is what it is taken to have said before.
    """

    user: str
    options: tuple[str, ...] | str
    answer: str
    labels: tuple[str, ...] = ()
    start: str = ""


@dataclass(frozen=True)
class Metric:
    """A share of verdicts, or another value of what was asked.

    The share is of facts whose verdicts are all as in `count`, among those whose verdicts are all as in `among`. Any
    other is the `value` (a key of `OF_ANSWERS` or `OF_CHOICES`) of the prompt or choice `of`. `among_base` names
    another share of the task: only facts for which that is 1 under the base count.
    """

    count: Mapping[str, str]
    among: Mapping[str, str] = field(default_factory=dict)
    value: str | None = None
    of: str = ""
    better: Literal["higher", "lower"] | None = None
    among_base: str = ""

    @property
    def asked(self) -> Collection[str]:
        """The names of the prompts or of the choice that it looks at."""
        return {**self.count, **self.among} if self.value is None else (self.of,)


NO_SHARE = Metric({})


@dataclass(frozen=True)
class Task:
    """An evaluation from a file: data, prompts or choices, metrics, and the two that are the trade-off's axes."""

    path: Path
    name: str
    data: str | Path
    max_new_tokens: int
    prompts: Mapping[str, Prompt]
    choices: Mapping[str, Choice]
    metrics: Mapping[str, Metric]
    axes: Mapping[str, str]

    @property
    def x(self) -> str:
        """The metric of what steering is to keep."""
        return self.axes["x"]

    @property
    def y(self) -> str:
        """The metric of what steering is to change."""
        return self.axes["y"]

    @property
    def needed(self) -> Collection[str]:
        """The fields of the data that the scorers compare answers with."""
        scorers = {prompt.score for prompt in self.prompts.values()} - {None}
        return ANSWERS if "agreement" in scorers else ANSWERS[:1] if scorers else ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What each metric is; one that is both axes counts as the behaviour."""
        found = []
        for name, metric in self.metrics.items():
            share: tuple[Kind, str] = ("share", "")
            kind, unit = share if metric.value is None else {**OF_ANSWERS, **OF_CHOICES}[metric.value]
            axis = next((axis for axis in ("y", "x") if self.axes.get(axis) == name), "")
            found.append(Measure(self.name, name, kind, metric.better, ROLES.get(axis), unit, metric.among_base))
        return tuple(found)


def task_file(reference: str) -> Path:
    """The YAML file of a built-in task, by its name, or the one that is given."""
    path = BUILT_IN / f"{reference}.yaml"
    if "/" in reference or not _exists(path):
        path = Path(reference)
    if not _exists(path) or not path.is_file():
        names = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
        raise WsteerError(f"there is no task {reference!r}: built in are {names}, or give a YAML file")
    return path


def load_task(reference: str) -> Task:
    """A built-in task by name, or one from a YAML file."""
    path = task_file(reference)
    value = read_yaml(path)
    if not isinstance(value, dict) or set(value) - KEYS or REQUIRED - set(value):
        raise WsteerError(
            f"{path}: a task has the keys {', '.join(sorted(KEYS))}; {', '.join(sorted(REQUIRED))} and prompts or "
            "choices are required"
        )
    return _parse(path, value)


def _parse(path: Path, value: dict) -> Task:
    name = _name(path, "the task", value["name"])
    if "prompts" not in value and "choices" not in value:
        raise WsteerError(f"{path}: a task has prompts, which are answered, or choices, whose options are scored")
    if ("prompts" in value) != ("max_new_tokens" in value):
        raise WsteerError(f"{path}: prompts and max_new_tokens, the limit of each answer, go together")
    prompts = {each: _prompt(path, each, fields) for each, fields in _table(path, "prompts", value)}
    choices = {each: _choice(path, each, fields) for each, fields in _table(path, "choices", value)}
    if both := prompts.keys() & choices.keys():
        raise WsteerError(f"{path}: {min(both)!r} is both a prompt and a choice; give one of them another name")
    metrics = {each: _metric(path, each, fields) for each, fields in _table(path, "metrics", value)}
    _check_metrics(path, prompts, choices, metrics)
    axes = _keys(path, "tradeoff", value.get("tradeoff", {}), {"x", "y"}, set())
    for axis, metric in axes.items():
        if _name(path, f"the metric of tradeoff {axis}", metric) not in metrics:
            raise WsteerError(f"{path}: tradeoff names {metric!r}, which is no metric of the task")
    most = value.get("max_new_tokens", 1)
    if type(most) is not int:
        raise _malformed(path, f"max_new_tokens must be a whole number, not {_shown(most)}")
    if not 1 <= most <= MOST_TOKENS:
        raise WsteerError(f"{path}: max_new_tokens must be 1 or more, and at most {MOST_TOKENS}")
    # data beside the task file, else as given: a path from the current folder, or a Hub data set
    data = _text(path, "data", value["data"])
    beside = path.parent / data
    return Task(path, name, beside if _exists(beside) else data, most, prompts, choices, metrics, axes)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _malformed(path: Path, what: str) -> WsteerError:
    return WsteerError(f"{path} is not a well-formed task: {what}")


def _shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(path: Path, what: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float | datetime.date):
        raise _malformed(path, f"YAML reads {what} as {_shown(value)} and not as a text; put it in quotes")
    raise _malformed(path, f"{what} is not a text")


def _name(path: Path, what: str, value: object) -> str:
    """A name that can stand in tables, pictures and files."""
    name = _text(path, f"the name of {what}", value)
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise _malformed(path, f"the name of {what} must be 1 to {MOST_NAME} printable characters, not {_shown(name)}")
    return name


def _table(path: Path, what: str, task: Mapping[str, object]) -> list[tuple[str, object]]:
    """The entries of the task's mapping `what` from names; none if the task lacks it."""
    if what not in task:
        return []
    value = task[what]
    if not isinstance(value, dict) or not value:
        raise _malformed(path, f"{what} must be a table of names, with one or more")
    return [(_name(path, f"one of the {what}", name), fields) for name, fields in value.items()]


def _keys(path: Path, what: str, value: object, allowed: set[str], required: set[str]) -> dict:
    if not isinstance(value, dict) or set(value) - allowed or required - set(value):
        found = _shown(list(value) if isinstance(value, dict) else value)
        raise _malformed(path, f"{what} has the keys {' and '.join(sorted(allowed))}, not {found}")
    return value


def _prompt(path: Path, name: str, value: object) -> Prompt:
    fields = _keys(path, f"prompt {name!r}", value, {"user", "score"}, {"user"})
    user = _template(path, f"the user's turn of prompt {name!r}", fields["user"])
    if "score" not in fields:
        return Prompt(user)
    score = _text(path, f"the scorer of prompt {name!r}", fields["score"])
    if score not in SCORERS:
        raise WsteerError(f"{path}: prompt {name!r} names the scorer {_shown(score)}; there are {', '.join(SCORERS)}")
    return Prompt(user, score)


def _template(path: Path, what: str, value: object) -> str:
    if not isinstance(value, str):
        raise WsteerError(f"{path}: {what} is not a text")
    return value


def _choice(path: Path, name: str, value: object) -> Choice:
    what = f"choice {name!r}"
    required = {"user", "options", "answer"}
    fields = _keys(path, what, value, {*required, "labels", "start"}, required)
    given = fields["options"]
    options = given if isinstance(given, str) else _texts(path, f"the options of {what}", given)
    labels = _texts(path, f"the labels of {what}", fields["labels"]) if "labels" in fields else ()
    if labels and len(set(labels)) < len(labels):
        raise WsteerError(f"{path}: {what} has a label twice")
    return Choice(
        _template(path, f"the user's turn of {what}", fields["user"]),
        options,
        _template(path, f"the answer of {what}", fields["answer"]),
        labels,
        _text(path, f"the start of {what}", fields.get("start", "")),
    )


def _texts(path: Path, what: str, value: object) -> tuple[str, ...]:
    """Two or more texts; YAML reads Yes and No without quotes as true and false, which is said."""
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_OPTIONS:
        raise _malformed(path, f"{what} must be a list of 2 to {MOST_OPTIONS} texts")
    return tuple(_text(path, f"one of {what}", each) for each in value)


def _metric(path: Path, name: str, value: object) -> Metric:
    kinds = {"count", *OF_ANSWERS, *OF_CHOICES}
    fields = _keys(path, f"metric {name!r}", value, {*kinds, *AMONG, "better"}, set())
    better = fields.get("better")
    if better not in (None, "higher", "lower"):
        raise _malformed(path, f"better of metric {name!r} must be higher or lower, not {_shown(better)}")
    found = sorted(fields.keys() & kinds)
    if len(found) != 1 or (fields.keys() & set(AMONG) and found != ["count"]):
        raise _malformed(
            path, f"metric {name!r} has one of {', '.join(sorted(kinds))}; {' and '.join(AMONG)} go with count"
        )
    if found != ["count"]:
        of = _name(path, f"what metric {name!r} is of", fields[found[0]])
        return Metric({}, {}, found[0], of, better)
    if not fields["count"]:
        raise WsteerError(f"{path}: metric {name!r} counts nothing")
    sides = []
    for side in (fields["count"], fields.get("among") or {}):
        if not isinstance(side, dict):
            raise _malformed(path, f"metric {name!r} counts verdicts of prompts, as {{plain: correct}}")
        what = f"a verdict that metric {name!r} counts"
        sides.append({_name(path, f"a prompt of metric {name!r}", k): _text(path, what, v) for k, v in side.items()})
    base = _name(path, f"among_base of metric {name!r}", fields["among_base"]) if "among_base" in fields else ""
    return Metric(sides[0], sides[1], better=better, among_base=base)


def _check_metrics(
    path: Path, prompts: Mapping[str, Prompt], choices: Mapping[str, Choice], metrics: Mapping[str, Metric]
) -> None:
    """Refuse a metric of what is not asked, or of verdicts that cannot be."""
    for name, metric in metrics.items():
        if metric.among_base and (metric.among_base == name or not metrics.get(metric.among_base, NO_SHARE).count):
            shares = ", ".join(each for each, other in metrics.items() if other.count and each != name) or "none"
            raise WsteerError(
                f"{path}: metric {name!r} is among {_shown(metric.among_base)} under the base, which is no other share "
                f"of verdicts of the task; there are {shares}"
            )
        for counted, verdict in [*metric.count.items(), *metric.among.items()]:
            score = prompts[counted].score if counted in prompts else None
            if score is None or verdict not in SCORERS[score].verdicts:
                raise WsteerError(
                    f"{path}: metric {name!r} counts {_shown(verdict)} of {counted!r}, which no prompt can give"
                )
        if metric.value is None:
            continue
        asked: Collection[str] = prompts if metric.value in OF_ANSWERS else choices
        if metric.of not in asked:
            what = "prompt" if metric.value in OF_ANSWERS else "choice"
            raise WsteerError(f"{path}: metric {name!r} is {metric.value} of {metric.of!r}, which is no {what}")
