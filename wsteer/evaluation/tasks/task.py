"""Tasks in YAML: the prompts for each fact, how answers are graded, and which shares are reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wsteer.errors import WsteerError
from wsteer.evaluation.scoring import SCORERS
from wsteer.files.rows import read_objects
from wsteer.files.text import read_yaml

BUILT_IN = Path(__file__).parent
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
    """An evaluation: data, prompts, metrics, and the two metrics that are the axes of `tradeoff.png`."""

    name: str
    data: str | Path
    max_new_tokens: int
    prompts: Mapping[str, Prompt]
    metrics: Mapping[str, Metric]
    x: str
    y: str


def load_task(reference: str) -> Task:
    """A built-in task by name, or one from a YAML file."""
    path = BUILT_IN / f"{reference}.yaml"
    if not path.exists() or "/" in reference:
        path = Path(reference)
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
        raise WsteerError(f"there is no task {reference!r}: built in are {names}, or give a YAML file")
    value = read_yaml(path)
    if not isinstance(value, dict) or set(value) - KEYS or (KEYS - {"description"}) - set(value):
        raise WsteerError(f"{path}: a task has the keys {', '.join(sorted(KEYS))}, all but description required")
    try:
        return _parse(path, value)
    except (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError) as error:
        raise WsteerError(f"{path} is not a well-formed task: {type(error).__name__}: {error}") from None


def _parse(path: Path, value: dict) -> Task:
    prompts = {name: Prompt(**fields) for name, fields in value["prompts"].items()}
    metrics = {name: Metric(m["count"], m.get("among") or {}) for name, m in value["metrics"].items()}
    _check_names(path, prompts, metrics)
    x, y = value["tradeoff"]["x"], value["tradeoff"]["y"]
    for name in (x, y):
        if name not in metrics:
            raise WsteerError(f"{path}: tradeoff names {name!r}, which is no metric of the task")
    if int(value["max_new_tokens"]) < 1:
        raise WsteerError(f"{path}: max_new_tokens must be 1 or more")
    # data beside the task file, else as given: a path from the current folder, or a Hub data set
    beside = path.parent / value["data"]
    data = beside if beside.exists() else value["data"]
    return Task(str(value["name"]), data, int(value["max_new_tokens"]), prompts, metrics, x, y)


def _check_names(path: Path, prompts: Mapping[str, Prompt], metrics: Mapping[str, Metric]) -> None:
    for name, prompt in prompts.items():
        if not isinstance(prompt.user, str):
            raise WsteerError(f"{path}: the user's turn of prompt {name!r} is not a text")
        if prompt.score not in SCORERS:
            raise WsteerError(
                f"{path}: prompt {name!r} names the scorer {prompt.score!r}; there are {', '.join(SCORERS)}"
            )
    for name, metric in metrics.items():
        if not metric.count:
            raise WsteerError(f"{path}: metric {name!r} counts nothing")
        for counted, verdict in [*metric.count.items(), *metric.among.items()]:
            if counted not in prompts or verdict not in SCORERS[prompts[counted].score].verdicts:
                raise WsteerError(
                    f"{path}: metric {name!r} counts {verdict!r} of {counted!r}, which no prompt can give"
                )


def read_facts(source: str | Path, limit: int | None = None) -> list[Fact]:
    """Facts from flat rows, or from SycophancyEval's `answer.jsonl` (one row per prompt, its fact under `base`)."""
    facts: dict[str, Fact] = {}
    ids: dict[str, str] = {}
    for where, row in read_objects(source):
        fact = _fact(where, row.get("base", row))
        if ids.setdefault(fact.id, fact.question) != fact.question:
            raise WsteerError(f"{where} has the id {fact.id!r} of another question; give every question its own id")
        facts.setdefault(fact.question, fact)
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
    identity = str(row["id"]) if row.get("id") is not None else row["question"]
    return Fact(identity, row["question"], row["correct_answer"], row["incorrect_answer"], accepted)


def user_turns(task: Task, facts: Sequence[Fact]) -> list[tuple[Fact, str, str]]:
    """(fact, prompt name, user's turn) for every fact and prompt. Templates run in jinja2's sandbox."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    turns = []
    for name, prompt in task.prompts.items():
        try:
            template = environment.from_string(prompt.user)
            turns += [(fact, name, template.render(fact.fields)) for fact in facts]
        except (TemplateError, ArithmeticError, TypeError, ValueError) as error:  # whatever its expressions raise
            raise WsteerError(f"task {task.name}: the template of prompt {name!r} fails: {error}") from None
    return turns


def grade(task: Task, prompt: str, fact: Fact, text: str) -> str:
    """The verdict of the prompt's scorer on one answer."""
    return SCORERS[task.prompts[prompt].score].grade(text, fact.aliases, (fact.incorrect_answer,))
