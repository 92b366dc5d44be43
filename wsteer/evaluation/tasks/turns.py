"""A task's templates rendered for each row of data, in jinja2's sandbox: what the model is asked, and its options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import StrictUndefined, Template, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wsteer.errors import WsteerError, one_error
from wsteer.evaluation.tasks.facts import Fact
from wsteer.evaluation.tasks.task import MOST_OPTIONS, Choice, Task
from wsteer.files.limits import bounded

MOST_TURN = 10**5  # characters that a template adds to a fact's own
ALL_FACTS = 30.0  # seconds of one template on all facts; a million honest ones take less
SHOWN = "options"  # the name under which the user's turn of a choice may list the options


@dataclass(frozen=True)
class ChoiceTurn:
    """One question with its options: the user's turn, what the options are, and what the model would say for each.

    `right` is the index of the answer in both. `swapped` tells that the options are shown in reversed order.
    """

    fact: Fact
    choice: str
    user: str
    options: tuple[str, ...]
    said: tuple[str, ...]
    right: int
    swapped: bool = False

    @property
    def id(self) -> str:
        """The row's id; each order of the options is a row of its own."""
        return f"{self.fact.id} (swapped)" if self.swapped else self.fact.id


def user_turns(task: Task, facts: Sequence[Fact]) -> list[tuple[Fact, str, str]]:
    """(fact, prompt name, user's turn) for every fact and prompt."""
    turns = []
    for name, prompt in task.prompts.items():
        what = f"{task.path}: the template of prompt {name!r}"
        texts = _rendered(what, prompt.user, facts, [fact.values for fact in facts])
        turns += [(fact, name, text) for fact, text in zip(facts, texts, strict=True)]
    return turns


def choice_turns(task: Task, facts: Sequence[Fact]) -> list[ChoiceTurn]:
    """Every fact under every choice; twice where the options are shown, the second time in reversed order.

    Raises WsteerError where a row has fewer than two options, two alike, or an answer that is none of them, and where
    the id of one is that of another one swapped.
    """
    return [turn for name, choice in task.choices.items() for turn in _turns(task, name, choice, facts)]


def _turns(task: Task, name: str, choice: Choice, facts: Sequence[Fact]) -> list[ChoiceTurn]:
    what = f"{task.path}: choice {name!r}"
    shows = _mentions(f"{what}: the template of the user's turn", choice.user, SHOWN)
    if choice.labels and not shows:
        raise WsteerError(
            f"{what} has labels, and its user's turn shows no {SHOWN}; write {{{{ {SHOWN}[0] }}}} into it"
        )
    if shows:
        _check_ids(what, facts)
    values = [fact.values for fact in facts]
    if isinstance(choice.options, str):
        options = [_listed(what, fact, choice.options) for fact in facts]
    else:
        columns = [_rendered(f"{what}: the template of an option", each, facts, values) for each in choice.options]
        options = [tuple(text.strip() for text in row) for row in zip(*columns, strict=True)]
    answers = _rendered(f"{what}: the template of the answer", choice.answer, facts, values)
    right = [_right(what, choice, *each) for each in zip(facts, options, map(str.strip, answers), strict=True)]
    turns = []
    for swapped in (False, True) if shows else (False,):
        shown = [each[::-1] if swapped else each for each in options]
        listed = [{**value, SHOWN: list(each)} for value, each in zip(values, shown, strict=True)] if shows else values
        users = _rendered(f"{what}: the template of the user's turn", choice.user, facts, listed)
        turns += [
            ChoiceTurn(
                fact, name, user, each, choice.labels[: len(each)] or each, len(each) - 1 - r if swapped else r, swapped
            )
            for fact, user, each, r in zip(facts, users, shown, right, strict=True)
        ]
    return turns


def _check_ids(what: str, facts: Sequence[Fact]) -> None:
    """Refuse a row whose own id is what another row is called with its options swapped."""
    swapped = {ChoiceTurn(fact, "", "", (), (), 0, swapped=True).id: fact for fact in facts}
    for fact in facts:
        if (other := swapped.get(fact.id)) is not None:
            raise WsteerError(
                f"{fact.where} has the id {fact.id[:80]!r}, which is {other.where} with the options swapped in {what}; "
                "give it another id"
            )


def _listed(what: str, fact: Fact, name: str) -> tuple[str, ...]:
    """The options that a field of the row lists."""
    found = fact.fields.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str | int | float) for each in found):
        raise WsteerError(f"{fact.where}: {what} takes its options from {name!r}, which is no list of texts there")
    return tuple(str(each).strip() for each in found)


def _right(what: str, choice: Choice, fact: Fact, options: tuple[str, ...], answer: str) -> int:
    """The index of the answer, which is one of the options or of their labels."""
    if not 2 <= len(options) <= MOST_OPTIONS or (choice.labels and len(options) > len(choice.labels)):
        most = len(choice.labels) or MOST_OPTIONS
        raise WsteerError(f"{fact.where} has {len(options)} options, and {what} takes 2 to {most}")
    if len(set(options)) < len(options) or not all(options):
        raise WsteerError(f"{fact.where}: two options of {what} are the same, or one is empty")
    found = {names.index(answer) for names in (options, choice.labels[: len(options)]) if answer in names}
    if len(found) != 1:
        problem = "none of" if not found else "both an option and another one's label among"
        raise WsteerError(f"{fact.where}: the answer {answer[:80]!r} is {problem} the options of {what}")
    return found.pop()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    del environment.filters["random"], environment.globals["lipsum"]  # every run asks the same
    return environment


def _mentions(what: str, template: str, name: str) -> bool:
    """Whether the template uses a variable of this name."""
    with one_error(f"{what} fails"), bounded(what):
        return name in meta.find_undeclared_variables(_environment().parse(template))


def _rendered(what: str, template: str, facts: Sequence[Fact], values: Sequence[Mapping[str, object]]) -> list[str]:
    """The template's text for each fact with its values."""
    with one_error(f"{what} fails"), bounded(f"{what}, on all facts,", ALL_FACTS):
        with bounded(what):
            compiled = _environment().from_string(template)
        return [_text(what, compiled, fact, given) for fact, given in zip(facts, values, strict=True)]


def _text(what: str, template: Template, fact: Fact, values: Mapping[str, object]) -> str:
    with bounded(what):
        text = template.render(values)
        if len(text) > MOST_TURN + fact.size:
            raise WsteerError(f"{what} makes {len(text)} characters of one fact; it is made to harm, or damaged")
        return text
