"""The results of an evaluation: shares with intervals, condition by condition."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from wsteer.evaluation.tasks.task import Metric, Task
from wsteer.statistics import wilson

CUT = "cut"  # the verdict on an answer that the limit of tokens came before; no metric counts it


@dataclass(frozen=True)
class Share:
    """One metric under one condition; value and interval (Wilson, 95%) are None where the denominator is 0.

    `abstained` and `cut` say how far to trust it: facts of the denominator with an answer that the rule could not
    grade, and with one cut off at the task's limit of tokens. An abstention is never in the numerator.
    """

    value: float | None
    low: float | None
    high: float | None
    numerator: int
    denominator: int
    abstained: int
    cut: int

    @property
    def bounds(self) -> tuple[float, float, float] | None:
        """(value, low, high) where the share is defined."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return self.value, self.low, self.high


@dataclass(frozen=True)
class ConditionResult:
    """The metrics under one condition; within a run, conditions differ only in k."""

    k: float
    metrics: Mapping[str, Share]


@dataclass(frozen=True)
class EvalReport:
    """What `eval` wrote, and the metrics themselves."""

    output: str
    task: str
    facts: int
    conditions: tuple[ConditionResult, ...]
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """What `results.json` holds."""
        conditions = [
            {"k": condition.k, "metrics": {name: vars(share) for name, share in condition.metrics.items()}}
            for condition in self.conditions
        ]
        return {"task": self.task, "facts": self.facts, "conditions": conditions, "warnings": list(self.warnings)}


def share(metric: Metric, facts: Sequence[Mapping[str, str]], cut: Sequence[Set[str]] = ()) -> Share:
    """A metric over facts; each fact is given by its verdicts, one for each prompt.

    An abstention never counts; the number of facts with one is reported. `cut` has for each fact the prompts whose
    answer was cut off.
    """
    among = [i for i, fact in enumerate(facts) if all(fact[p] == verdict for p, verdict in metric.among.items())]
    counted = [i for i in among if all(facts[i][p] == verdict for p, verdict in metric.count.items())]
    abstained = sum(any(facts[i][p] == "abstain" for p in metric.count) for i in among)
    unfinished = sum(bool(cut[i] & metric.count.keys()) for i in among) if cut else 0
    low, high = wilson(len(counted), len(among)) or (None, None)
    value = len(counted) / len(among) if among else None
    return Share(value, low, high, len(counted), len(among), abstained, unfinished)


def shares(task: Task, samples: Sequence[Mapping[str, Any]]) -> dict[str, Share]:
    """The task's metrics over graded answers.

    Each has the `id` of its fact, its `prompt`'s name, its `verdict`, and whether it is `finished`.
    """
    verdicts: dict[str, dict[str, str]] = {}
    cut: dict[str, set[str]] = {}
    for sample in samples:
        verdicts.setdefault(sample["id"], {})[sample["prompt"]] = sample["verdict"]
        cut.setdefault(sample["id"], set()).update(() if sample["finished"] else (sample["prompt"],))
    return {name: share(metric, list(verdicts.values()), list(cut.values())) for name, metric in task.metrics.items()}


def doubts(abstained: int, cut: int) -> str:
    """`16 abstained, 3 cut`, what a share must not be shown without; empty if there is nothing to say."""
    return ", ".join(f"{count} {what}" for count, what in ((abstained, "abstained"), (cut, "cut")) if count)


def mostly_abstained(conditions: Sequence[ConditionResult]) -> Iterator[str]:
    """A warning that names the shares of which the rule could not grade the larger part."""
    found = [
        f"{name} at k={condition.k:g} ({share.abstained} of {share.denominator})"
        for condition in conditions
        for name, share in condition.metrics.items()
        if share.abstained > share.denominator / 2
    ]
    if found:
        yield (
            f"the rule could not grade most answers, and those never count, for {', '.join(found)}: "
            "read them in samples.jsonl"
        )


def cut_before_answers(task: Task, samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A warning if the limit of tokens came before some answers, as where a model thinks for long."""
    count = sum(sample["verdict"] == CUT for sample in samples)
    if count:
        yield (
            f"{count} of {len(samples)} answers were cut at {task.max_new_tokens} tokens, when the model had thought "
            "and not answered; they are not graded: raise max_new_tokens in the task's file, or turn thinking off with "
            "--template-args if the chat template can"
        )
