"""The YAML tasks run on a model under a condition: answers generated and graded, options scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import CUT, OUTSIDE, Measure, Outcome, Row, prompt_digest
from wsteer.evaluation.subject import Subject, with_system
from wsteer.evaluation.tasks.facts import Fact, read_facts
from wsteer.evaluation.tasks.numbers import final_number, last_number
from wsteer.evaluation.tasks.repetition import distinct, repeated
from wsteer.evaluation.tasks.scoring import SCORERS, own_words
from wsteer.evaluation.tasks.task import Metric, Task, load_task
from wsteer.evaluation.tasks.texts import PREFIX, TextTask, read_texts
from wsteer.evaluation.tasks.turns import ChoiceTurn, choice_turns, user_turns
from wsteer.evaluation.tasks.verdicts import counted
from wsteer.evaluation.tasks.weighing import weighed
from wsteer.models.generation import Answer, answer
from wsteer.progress import Progress, silent


@dataclass(frozen=True)
class Asked:
    """An answer to one prompt about one fact, and its verdict; None where no scorer grades it."""

    fact: Fact
    prompt: str
    user: str
    answer: Answer
    verdict: str | None


@dataclass(frozen=True)
class AskedTask:
    """A YAML task with its data read and its templates rendered: all that can fail has, before a model is loaded."""

    task: Task
    data: str | Path
    facts: tuple[Fact, ...]
    turns: tuple[tuple[Fact, str, str], ...]
    choices: tuple[ChoiceTurn, ...]

    @property
    def name(self) -> str:
        """The task's name, as rows have it."""
        return self.task.name

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What its metrics are."""
        return self.task.measures

    @property
    def files(self) -> tuple[tuple[str, str | Path], ...]:
        """What is read for it, by the roles that records give them."""
        return (("task", self.task.path), ("data", self.data))

    @property
    def count(self) -> int:
        """How many rows its data has."""
        return len(self.facts)

    def run(self, subject: Subject, condition: Condition, progress: Progress = silent) -> Outcome:
        """All rows under `condition`, which `subject` is under; decoding is greedy."""
        asked = self._answers(subject, condition, progress)
        scored = weighed(subject, condition, self.task, self.choices, progress)
        rows: list[Row] = []
        for name, metric in self.task.metrics.items():
            if metric.value is None:
                rows += _shares(self.task, condition, name, metric, asked)
            elif metric.of in self.task.prompts:
                rows += [_of_answer(self.name, condition, name, metric, each) for each in _of(asked, metric.of)]
            else:
                rows += [
                    each.row(self.name, condition, name, metric) for each in scored if each.turn.choice == metric.of
                ]
        samples = [_sample(self.name, condition, each) for each in asked]
        samples += [each.sample(self.name, condition) for each in scored]
        return Outcome(tuple(rows), self.measures, tuple(_cut_before_answers(self.task, asked)), tuple(samples))

    def _answers(self, subject: Subject, condition: Condition, progress: Progress) -> list[Asked]:
        if not self.turns:
            return []
        chats = [with_system(condition, [{"role": "user", "content": turn}]) for _, _, turn in self.turns]
        most = self.task.max_new_tokens
        answers = answer(subject.loaded, chats, most, subject.batch_size, seed=subject.seed, progress=progress)
        return [
            Asked(fact, name, turn, given, _verdict(self.task, name, fact, turn, given))
            for (fact, name, turn), given in zip(self.turns, answers, strict=True)
        ]


def prepare(reference: str, data: str | Path | None = None, limit: int | None = None) -> AskedTask | TextTask:
    """A task of wsteer's own, ready to run: a built-in one by name, a YAML file, or `perplexity:FILE`.

    `data` replaces the data that the task names, `limit` takes its first rows. No model is needed: whatever is wrong
    with the task, its data or its templates is a WsteerError here.
    """
    if reference.startswith(PREFIX):
        return read_texts(reference.removeprefix(PREFIX) if data is None else data, limit)
    task = load_task(reference)
    source = task.data if data is None else data
    facts = read_facts(source, limit, task.needed)
    if any(prompt.score == "number" for prompt in task.prompts.values()):
        _check_numbers(facts)
    return AskedTask(task, source, tuple(facts), tuple(user_turns(task, facts)), tuple(choice_turns(task, facts)))


def _check_numbers(facts: Sequence[Fact]) -> None:
    """Refuse a right answer that no number could be equal to."""
    for fact in facts:
        if wrong := next((alias for alias in fact.aliases if last_number(alias) is None), None):
            raise WsteerError(
                f"{fact.where} has the right answer {wrong[:80]!r}, which is no number; the scorer number needs digits"
            )


def grade(task: Task, prompt: str, fact: Fact, text: str) -> str | None:
    """The verdict of the prompt's scorer on one answer; None if it has none."""
    score = task.prompts[prompt].score
    return None if score is None else SCORERS[score].grade(text, fact.aliases, fact.wrong)


def _verdict(task: Task, prompt: str, fact: Fact, turn: str, given: Answer) -> str | None:
    score, text = task.prompts[prompt].score, own_words(given.text, turn)
    # a number in working that has not ended is no result
    unfinished = score == "number" and not given.finished and final_number(text, cut=True) is None
    if score is not None and (unfinished or not given.reached):
        return CUT
    return grade(task, prompt, fact, text)


def _of(asked: Iterable[Asked], prompt: str) -> list[Asked]:
    return [each for each in asked if each.prompt == prompt]


def _shares(task: Task, condition: Condition, name: str, metric: Metric, asked: Sequence[Asked]) -> list[Row]:
    """The rows of a share of verdicts: one a fact, by its answers to the prompts that the metric looks at."""
    prompts = [prompt for prompt in task.prompts if prompt in metric.asked]
    columns = [_of(asked, prompt) for prompt in prompts]
    rows = []
    for answers in zip(*columns, strict=True):
        value, why = counted(metric, {each.prompt: str(each.verdict) for each in answers})
        rows.append(_row(task.name, condition, name, answers, value, why))
    return rows


def _of_answer(task: str, condition: Condition, name: str, metric: Metric, asked: Asked) -> Row:
    """The row of a metric that is a value of one answer's text, of its length, or of its end."""
    given, value = asked.answer, metric.value or ""
    if value == "tokens":
        return _row(task, condition, name, [asked], float(given.tokens), "")
    if value == "finished":
        return _row(task, condition, name, [asked], float(given.finished), "")
    if not given.reached:
        return _row(task, condition, name, [asked], None, CUT)
    found = repeated(given.text, 4) if value == "repeated_4grams" else distinct(given.text, int(value[-1]))
    return _row(task, condition, name, [asked], found, "" if found is not None else OUTSIDE)


def _row(task: str, condition: Condition, metric: str, asked: Sequence[Asked], value: float | None, why: str) -> Row:
    several, fact = len(asked) > 1, asked[0].fact
    return Row(
        task,
        metric,
        condition.name,
        fact.id,
        value,
        why,
        group=fact.group,
        prompt=prompt_digest(*(each.user for each in asked)),
        input="\n".join(f"{each.prompt}: {each.user}" if several else each.user for each in asked),
        answer="\n".join(f"{each.prompt}: {each.answer.text}" if several else each.answer.text for each in asked),
        finished=all(each.answer.finished for each in asked),
    )


def _sample(task: str, condition: Condition, asked: Asked) -> Mapping[str, object]:
    """A line of samples.jsonl."""
    return {
        "task": task,
        "condition": condition.name,
        "k": condition.k,
        "id": asked.fact.id,
        "prompt": asked.prompt,
        "user": asked.user,
        "answer": asked.answer.text,
        "thought": asked.answer.thought,
        "verdict": asked.verdict,
        "tokens": asked.answer.tokens,
        "finished": asked.answer.finished,
    }


def _cut_before_answers(task: Task, asked: Sequence[Asked]) -> Iterable[str]:
    """A warning if the limit of tokens came before some answers, as where a model thinks for long."""
    count = sum(not each.answer.reached for each in asked)
    if count:
        yield (
            f"{count} of {len(asked)} answers were cut at {task.max_new_tokens} tokens, when the model had thought "
            "and not answered; they are not graded: raise max_new_tokens in the task's file, or turn thinking off with "
            "--template-args if the chat template can"
        )
