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


@dataclass(frozen=True)
class Condition:
    """The metrics at one k."""

    k: float
    metrics: Mapping[str, Share]


@dataclass(frozen=True)
class EvalReport:
    """What `eval` wrote, and the metrics themselves."""

    output: str
    task: str
    facts: int
    conditions: tuple[Condition, ...]


def share(metric: Metric, verdicts: Sequence[Mapping[str, str]]) -> Share:
    """A metric over facts, each given as its verdict for every prompt. An abstention never counts, and is told."""
    among = [fact for fact in verdicts if all(fact[p] == verdict for p, verdict in metric.among.items())]
    counted = [fact for fact in among if all(fact[p] == verdict for p, verdict in metric.count.items())]
    abstained = sum(any(fact[p] == "abstain" for p in metric.count) for fact in among)
    low, high = wilson(len(counted), len(among)) or (None, None)
    value = len(counted) / len(among) if among else None
    return Share(value, low, high, len(counted), len(among), abstained)


def _measure(task: Task, samples: Sequence[Mapping[str, object]]) -> dict[str, Share]:
    verdicts: dict[str, dict[str, str]] = {}
    for sample in samples:
        verdicts.setdefault(sample["id"], {})[sample["prompt"]] = sample["verdict"]
    return {name: share(metric, list(verdicts.values())) for name, metric in task.metrics.items()}


def _as_json(report: EvalReport) -> dict:
    conditions = [
        {"k": condition.k, "metrics": {name: vars(share) for name, share in condition.metrics.items()}}
        for condition in report.conditions
    ]
    return {"task": report.task, "facts": report.facts, "conditions": conditions}
