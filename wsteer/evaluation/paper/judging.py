"""Verdicts: a rule's, or a judge's where the rule abstains; several judges have a vote each."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from inspect_ai.model import Model, model_roles
from inspect_ai.scorer import Score

from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.logs import FILTERED, ROLE, UNPARSED, WHY
from wsteer.evaluation.rows import ABSTAINED, OUTSIDE

NO_MAJORITY = "no majority"
GRADERS = ("both", "rule", "judge")

Label = str | float
# metrics of answers that a rule grades with the right result at hand: over all rows, and over those with a result
RIGHT = {
    "accuracy": {"kind": "share", "better": "higher", "role": "capability"},
    "valid": {"kind": "share", "better": "higher"},
    "accuracy_of_valid": {"kind": "share", "better": "higher"},
}


@dataclass(frozen=True)
class Verdict:
    """What an answer was graded: a label or a number, or None and why there is none; `by` the rule or the judge.

    `said` is what the judges wrote.
    """

    value: Label | None
    why: str = ""
    by: Literal["rule", "judge"] = "rule"
    said: str = ""


def check_graders(given: str) -> None:
    """Refuse what is no way of grading."""
    if given not in GRADERS:
        raise WsteerError(f"-T grade={given}: give one of {', '.join(GRADERS)}")


def judges() -> list[Model]:
    """The models in the role `grader`; none where the user named no judge."""
    found = model_roles().get(ROLE, [])
    listed = found if isinstance(found, list) else [found]
    return [each for each in listed if each.api.__class__.__name__ != "NoJudge"]


async def graded(rule: Label | None, prompt: str, parse: Callable[[str], Label | None], grade: str = "both") -> Verdict:
    """The rule's verdict, or that of the judges, who are asked where the rule gives None.

    With `grade` "rule" no judge is asked, and with "judge" the rule is not. Where the rule abstains and there is no
    judge, the verdict is missing (abstained).
    """
    if grade != "judge" and rule is not None:
        return Verdict(rule)
    if grade == "rule" or (grade == "both" and not judges()):
        return Verdict(None, ABSTAINED)
    return await judged(prompt, parse)


async def judged(prompt: str, parse: Callable[[str], Label | None]) -> Verdict:
    """The judges' verdict: the label that more than half of them give, or if more than half give numbers, their mean.

    `parse` reads a verdict from what a judge wrote, and gives None where there is none. A judge whose answer is
    withheld or cannot be read has no vote. Raises WsteerError without a judge.
    """
    panel = judges()
    if not panel:
        raise WsteerError("the task asks a judge to grade; name one with --judge MODEL, as --judge openai/gpt-4o-mini")
    votes: list[Label] = []
    said, why = [], ""
    for model in panel:
        output = await model.generate(prompt)
        said.append(output.completion)
        filtered = output.stop_reason == "content_filter"
        vote = None if filtered else parse(output.completion)
        if vote is None:
            why = FILTERED if filtered else UNPARSED
        else:
            votes.append(vote)
    texts = "\n\n".join(said)
    if not votes or 2 * len(votes) <= len(panel):
        return Verdict(None, why, "judge", texts)
    numbers = [each for each in votes if isinstance(each, int | float)]
    if 2 * len(numbers) > len(panel):
        return Verdict(math.fsum(numbers) / len(numbers), "", "judge", texts)
    label, count = Counter(each for each in votes if isinstance(each, str)).most_common(1)[0]
    return Verdict(label, "", "judge", texts) if 2 * count > len(panel) else Verdict(None, NO_MAJORITY, "judge", texts)


def right_of(right: bool, valid: bool) -> dict[str, float | bool | str]:
    """The values of the metrics `RIGHT` for an answer: whether it is right, and whether it has a result at all."""
    return {"accuracy": right, "valid": valid, "accuracy_of_valid": right if valid else OUTSIDE}


def score_of(values: Mapping[str, float | bool | str], verdict: str, answer: str = "") -> Score:
    """A score of several metrics: numbers are values, texts say why a metric has none. `verdict` is for people."""
    whys = {name: value for name, value in values.items() if isinstance(value, str)}
    numbers = {name: math.nan if isinstance(value, str) else float(value) for name, value in values.items()}
    return Score(value=numbers, answer=answer or None, explanation=verdict, metadata={WHY: whys})
