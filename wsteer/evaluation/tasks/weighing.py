"""Options weighed: the log-probability of each as the model's answer, in one forward pass where they are one token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import ABSTAINED, Row, prompt_digest
from wsteer.evaluation.subject import Subject, with_system
from wsteer.evaluation.tasks.likelihood import Scored, continuation, log_probabilities
from wsteer.evaluation.tasks.task import Metric, Task
from wsteer.evaluation.tasks.turns import ChoiceTurn
from wsteer.models.rendering import prompt_text
from wsteer.progress import Progress


@dataclass(frozen=True)
class Weighed:
    """A question with the natural log-probability of each option, and `mass`: the probability of any of them."""

    turn: ChoiceTurn
    logs: tuple[float, ...]
    mass: float

    @property
    def margin(self) -> float:
        """Of the right option over the best other one, in nats."""
        right = self.turn.right
        return self.logs[right] - max(log for index, log in enumerate(self.logs) if index != right)

    @property
    def best(self) -> int | None:
        """The index of the option of the highest probability; None where two share it."""
        highest = [index for index, log in enumerate(self.logs) if log == max(self.logs)]
        return highest[0] if len(highest) == 1 else None

    def value(self, of: str) -> float | None:
        """A metric's value, by the name that task files give it; None where no option is the best."""
        if of in ("margin", "mass"):
            return self.margin if of == "margin" else self.mass
        wanted = self.turn.right if of == "chosen" else 0
        return None if self.best is None else float(self.best == wanted)

    def row(self, task: str, condition: Condition, name: str, metric: Metric) -> Row:
        """The row of one metric."""
        turn, value = self.turn, self.value(metric.value or "")
        return Row(
            task,
            name,
            condition.name,
            turn.id,
            value,
            "" if value is not None else ABSTAINED,
            group=turn.fact.group,
            prompt=prompt_digest(turn.user, *turn.said),
            input=turn.user,
            answer=self.answer,
        )

    @property
    def answer(self) -> str:
        """The best option, as rows show it: what the model would say, and what that stands for."""
        if self.best is None:
            return ""
        said, option = self.turn.said[self.best], self.turn.options[self.best]
        return said if said == option else f"{said}: {option}"

    def sample(self, task: str, condition: Condition) -> Mapping[str, object]:
        """A line of samples.jsonl."""
        return {
            "task": task,
            "condition": condition.name,
            "k": condition.k,
            "id": self.turn.id,
            "prompt": self.turn.choice,
            "user": self.turn.user,
            "answer": self.answer,
            "options": list(self.turn.options),
            "right": self.turn.options[self.turn.right],
            "logs": list(self.logs),
            "mass": self.mass,
        }


def weighed(
    subject: Subject, condition: Condition, task: Task, turns: Sequence[ChoiceTurn], progress: Progress
) -> list[Weighed]:
    """Every question's options weighed by the model, which is under `condition`."""
    if not turns:
        return []
    rows = [_options(subject, condition, task.choices[turn.choice].start, turn) for turn in turns]
    found = iter(
        log_probabilities(subject.loaded, [each for row in rows for each in row], subject.batch_size, progress)
    )
    results = []
    for turn, row in zip(turns, rows, strict=True):
        logs = tuple(math.fsum(next(found)) for _ in row)
        results.append(Weighed(turn, logs, _mass([each.tokens for each in row], logs)))
    return results


def _options(subject: Subject, condition: Condition, start: str, turn: ChoiceTurn) -> list[Scored]:
    """Each option as the model's answer to the question, after `start` and a space if there is one."""
    chat = with_system(condition, [{"role": "user", "content": turn.user}])
    prompt, space = prompt_text(subject.loaded.chat, chat), " " if start else ""
    return [continuation(subject.loaded, prompt, start, space + said) for said in turn.said]


def _mass(tokens: Sequence[tuple[int, ...]], logs: Sequence[float]) -> float:
    """The probability of any of the options; one that goes on from another is within the other's."""
    return math.fsum(
        math.exp(log)
        for index, log in enumerate(logs)
        if not any(len(o) < len(tokens[index]) and tokens[index][: len(o)] == o for o in tokens)
    )
