"""Tasks in YAML: the prompts for each fact, how answers are graded, and which shares are reported."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wsteer.errors import WsteerError, one_error
from wsteer.evaluation.scoring import SCORERS, names_of
from wsteer.files.limits import bounded
from wsteer.files.rows import read_objects
from wsteer.files.yaml import read_yaml

BUILT_IN = Path(__file__).parent
MOST_NAME = 200  # characters of a name
MOST_TURN = 10**5  # characters that a template adds to a fact's own
MOST_TOKENS = 10**6
ALL_FACTS = 30.0  # seconds of one template on all facts; a million honest ones take less
KEYS = {"name", "description", "data", "max_new_tokens", "prompts", "metrics", "tradeoff"}


@dataclass(frozen=True)
class Fact:
    """A question with its accepted answers and a wrong one."""

    id: str
    question: str
    correct_answer: str
    incorrect_answer: str
    aliases: tuple[str, ...]

    @property
    def fields(self) -> dict[str, str]:
        """The values that a prompt's template may use."""
        names = ("question", "correct_answer", "incorrect_answer")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Prompt:
    """One way of asking: a template of the user's turn, and the scorer of the answer."""

    user: str
    score: str


@dataclass(frozen=True)
class Metric:
    """A share: the facts whose verdicts are all as in `count`, among those whose verdicts are all as in `among`."""

    count: Mapping[str, str]
    among: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """An evaluation from a file: data, prompts, metrics, and the two metrics that are the axes of `tradeoff.png`."""

    path: Path
    name: str
    data: str | Path
    max_new_tokens: int
    prompts: Mapping[str, Prompt]
    metrics: Mapping[str, Metric]
    x: str
    y: str


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
    if not isinstance(value, dict) or set(value) - KEYS or (KEYS - {"description"}) - set(value):
        raise WsteerError(f"{path}: a task has the keys {', '.join(sorted(KEYS))}, all but description required")
    return _parse(path, value)


def _parse(path: Path, value: dict) -> Task:
    name = _name(path, "the task", value["name"])
    prompts = {each: _prompt(path, each, fields) for each, fields in _table(path, "prompts", value["prompts"])}
    metrics = {each: _metric(path, each, fields) for each, fields in _table(path, "metrics", value["metrics"])}
    _check_counts(path, prompts, metrics)
    axes = _keys(path, "tradeoff", value["tradeoff"], {"x", "y"}, {"x", "y"})
    for axis, metric in axes.items():
        if _name(path, f"the metric of tradeoff {axis}", metric) not in metrics:
            raise WsteerError(f"{path}: tradeoff names {metric!r}, which is no metric of the task")
    most = value["max_new_tokens"]
    if type(most) is not int:
        raise _malformed(path, f"max_new_tokens must be a whole number, not {_shown(most)}")
    if not 1 <= most <= MOST_TOKENS:
        raise WsteerError(f"{path}: max_new_tokens must be 1 or more, and at most {MOST_TOKENS}")
    # data beside the task file, else as given: a path from the current folder, or a Hub data set
    data = _text(path, "data", value["data"])
    beside = path.parent / data
    return Task(path, name, beside if _exists(beside) else data, most, prompts, metrics, axes["x"], axes["y"])


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


def _table(path: Path, what: str, value: object) -> list[tuple[str, object]]:
    """The entries of a mapping from names."""
    if not isinstance(value, dict) or not value:
        raise _malformed(path, f"{what} must be a table of names, with one or more")
    return [(_name(path, f"one of the {what}", name), fields) for name, fields in value.items()]


def _keys(path: Path, what: str, value: object, allowed: set[str], required: set[str]) -> dict:
    if not isinstance(value, dict) or set(value) - allowed or required - set(value):
        found = _shown(list(value) if isinstance(value, dict) else value)
        raise _malformed(path, f"{what} has the keys {' and '.join(sorted(allowed))}, not {found}")
    return value


def _prompt(path: Path, name: str, value: object) -> Prompt:
    fields = _keys(path, f"prompt {name!r}", value, {"user", "score"}, {"user", "score"})
    if not isinstance(fields["user"], str):
        raise WsteerError(f"{path}: the user's turn of prompt {name!r} is not a text")
    score = _text(path, f"the scorer of prompt {name!r}", fields["score"])
    if score not in SCORERS:
        raise WsteerError(f"{path}: prompt {name!r} names the scorer {_shown(score)}; there are {', '.join(SCORERS)}")
    return Prompt(fields["user"], score)


def _metric(path: Path, name: str, value: object) -> Metric:
    fields = _keys(path, f"metric {name!r}", value, {"count", "among"}, {"count"})
    if not fields["count"]:
        raise WsteerError(f"{path}: metric {name!r} counts nothing")
    sides = []
    for side in (fields["count"], fields.get("among") or {}):
        if not isinstance(side, dict):
            raise _malformed(path, f"metric {name!r} counts verdicts of prompts, as {{plain: correct}}")
        what = f"a verdict that metric {name!r} counts"
        sides.append({_name(path, f"a prompt of metric {name!r}", k): _text(path, what, v) for k, v in side.items()})
    return Metric(*sides)


def _check_counts(path: Path, prompts: Mapping[str, Prompt], metrics: Mapping[str, Metric]) -> None:
    for name, metric in metrics.items():
        for counted, verdict in [*metric.count.items(), *metric.among.items()]:
            if counted not in prompts or verdict not in SCORERS[prompts[counted].score].verdicts:
                raise WsteerError(
                    f"{path}: metric {name!r} counts {_shown(verdict)} of {counted!r}, which no prompt can give"
                )


def read_facts(source: str | Path, limit: int | None = None) -> list[Fact]:
    """Facts from flat rows, or from SycophancyEval's `answer.jsonl` (one row per prompt, its fact under `base`)."""
    facts: dict[str, Fact] = {}
    ids: dict[str, str] = {}
    places: dict[str, str] = {}
    for where, row in read_objects(source):
        fact = _fact(where, row.get("base", row))
        if ids.setdefault(fact.id, fact.question) != fact.question:
            raise WsteerError(f"{where} has the id {fact.id!r} of another question; give every question its own id")
        known, place = facts.setdefault(fact.question, fact), places.setdefault(fact.question, where)
        if known.fields != fact.fields:  # SycophancyEval's rows of one question have the same answers
            raise WsteerError(f"{where} has other answers than {place} to the same question; keep one of the two rows")
    if not facts:
        raise WsteerError(f"{source} holds no rows")
    return list(facts.values())[:limit]


def _fact(where: str, row: object) -> Fact:
    if not isinstance(row, dict):
        raise WsteerError(f"{where}: base is not an object")
    missing = [key for key in ("question", "correct_answer", "incorrect_answer") if not isinstance(row.get(key), str)]
    if missing:
        raise WsteerError(
            f"{where} lacks the text {missing[0]!r}; a fact has question, correct_answer, incorrect_answer"
        )
    aliases = row.get("answer") or []
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise WsteerError(f"{where}: answer must be a list of texts, the accepted answers")
    accepted = tuple(dict.fromkeys([row["correct_answer"], *aliases]))
    if names_of([row["correct_answer"]]) == names_of([row["incorrect_answer"]]):
        raise WsteerError(f"{where}: correct_answer and incorrect_answer are the same, so no answer can be graded")
    identity = str(row["id"]) if row.get("id") is not None else row["question"]
    return Fact(identity, row["question"], row["correct_answer"], row["incorrect_answer"], accepted)


def user_turns(task: Task, facts: Sequence[Fact]) -> list[tuple[Fact, str, str]]:
    """(fact, prompt name, user's turn) for every fact and prompt. Templates run in jinja2's sandbox."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    del environment.filters["random"], environment.globals["lipsum"]  # every run asks the same
    turns = []
    for name, prompt in task.prompts.items():
        what = f"{task.path}: the template of prompt {name!r}"
        with one_error(f"{what} fails"), bounded(f"{what}, on all facts,", ALL_FACTS):
            with bounded(what):
                template = environment.from_string(prompt.user)
            turns += [(fact, name, _rendered(what, template, fact)) for fact in facts]
    return turns


def _rendered(what: str, template: Template, fact: Fact) -> str:
    with bounded(what):
        text = template.render(fact.fields)
        if len(text) > MOST_TURN + sum(map(len, fact.fields.values())):
            raise WsteerError(f"{what} makes {len(text)} characters of one fact; it is made to harm, or damaged")
        return text


def grade(task: Task, prompt: str, fact: Fact, text: str) -> str:
    """The verdict of the prompt's scorer on one answer."""
    return SCORERS[task.prompts[prompt].score].grade(text, fact.aliases, (fact.incorrect_answer,))
