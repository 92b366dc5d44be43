"""The results of an evaluation: shares with intervals, condition by condition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsteer.evaluation.tasks.task import Metric, Task
from wsteer.statistics import wilson


@dataclass(frozen=True)
class Share:
    """One metric under one condition; value and interval (Wilson, 95%) are None where the denominator is 0."""

    value: float | None
    low: float | None
    high: float | None
    numerator: int
    denominator: int
    abstained: int

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

    def as_json(self) -> dict[str, object]:
        """What `results.json` holds."""
        conditions = [
            {"k": condition.k, "metrics": {name: vars(share) for name, share in condition.metrics.items()}}
            for condition in self.conditions
        ]
        return {"task": self.task, "facts": self.facts, "conditions": conditions}


def share(metric: Metric, verdicts: Sequence[Mapping[str, str]]) -> Share:
    """A metric over facts; each fact is given by its verdicts, one for each prompt.

    An abstention never counts; the number of facts with one is reported.
    """
    among = [fact for fact in verdicts if all(fact[p] == verdict for p, verdict in metric.among.items())]
    counted = [fact for fact in among if all(fact[p] == verdict for p, verdict in metric.count.items())]
    abstained = sum(any(fact[p] == "abstain" for p in metric.count) for fact in among)
    low, high = wilson(len(counted), len(among)) or (None, None)
    value = len(counted) / len(among) if among else None
    return Share(value, low, high, len(counted), len(among), abstained)


def shares(task: Task, samples: Sequence[Mapping[str, str]]) -> dict[str, Share]:
    """The task's metrics over graded answers, each with the `id` of its fact, its `prompt`'s name and its `verdict`."""
    verdicts: dict[str, dict[str, str]] = {}
    for sample in samples:
        verdicts.setdefault(sample["id"], {})[sample["prompt"]] = sample["verdict"]
    return {name: share(metric, list(verdicts.values())) for name, metric in task.metrics.items()}
