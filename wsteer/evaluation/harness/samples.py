"""lm-evaluation-harness's samples of a task, as rows and measures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

from wsteer.errors import WsteerError
from wsteer.evaluation.rows import ROLES, Measure, Outcome, Row

MOST_INPUT = 2000  # characters of a prompt that a row keeps, the last ones
MARGIN = "answer_margin"
NOT_FINITE = "the model computed no finite number"
MISSING = "lm-eval gave no value"
# lm-eval's tasks of behaviours, by model-written evaluations; all others are of capabilities
BEHAVIOURS = "model_written_evals"


def measured(
    name: str, task: Any, samples: Sequence[Mapping[str, Any]], results: Mapping[str, Any], condition: str, alone: bool
) -> Outcome:
    """The rows of one task under one condition: each metric on each of lm-eval's samples, and `answer_margin`.

    `results` are lm-eval's own figures. A metric that is no mean over the rows (f1, bleu, a median) is left out, and a
    warning says so. The first measure gets the task's role if the task stands `alone`, in no group that was asked for.
    """
    rows: list[Row] = []
    measures: list[Measure] = []
    warnings: list[str] = []
    for filtered, metric in _metrics(samples):
        key = metric if filtered == "none" else f"{metric},{filtered}"
        found = _Metric.of(task, metric)
        chosen = [sample for sample in samples if sample["filter"] == filtered]
        made = [_row(name, key, condition, task, sample, found.value(sample)) for sample in chosen]
        if any(found.unusable(sample) for sample in chosen) or not found.agrees(made, results[f"{metric},{filtered}"]):
            warnings.append(f"{metric} of {name} is no mean over its rows, so it is only in lm-eval's own results")
            continue
        rows += made
        measures.append(Measure(name, key, found.kind(made), better=_better(task, metric), unit=found.unit))
    if getattr(task, "OUTPUT_TYPE", None) == "multiple_choice" and samples:
        filtered = samples[0]["filter"]
        chosen = [sample for sample in samples if sample["filter"] == filtered]
        rows += [_row(name, MARGIN, condition, task, sample, _margin(task, sample)) for sample in chosen]
        measures.append(Measure(name, MARGIN, "mean", better="higher", unit="nats"))
    if measures and alone:
        measures[0] = replace(measures[0], role=_role(name, task))
    if not measures and not warnings:
        warnings.append(f"{name} gives no metric; name one in its metric_list")
    return Outcome(tuple(rows), tuple(measures), tuple(warnings))


def pooled(group: Any, parts: Sequence[Outcome]) -> Outcome:
    """The rows of a group's tasks as one task of the group's name, for the metrics that lm-eval averages over its rows.

    lm-eval does so by default, as for mmlu; a group without such an average gives no rows.
    """
    inside = {task.task_name: task for task in group.get_all_tasks()}
    averaged = [each for each in group.aggregate_metric_list or () if each.weight_by_size]
    of: dict[str, list[Measure]] = {}
    for measure in (measure for part in parts for measure in part.measures if measure.task in inside):
        if measure.kind != "perplexity" and any(_averages(each, measure.metric) for each in averaged):
            of.setdefault(measure.metric, []).append(measure)
    role = _role(group.name, next(iter(inside.values())))
    measures = [
        replace(
            found[0],
            task=group.name,
            kind="share" if all(measure.kind == "share" for measure in found) else "mean",
            role=role if key == next(iter(of)) else None,
        )
        for key, found in of.items()
    ]
    rows = [
        replace(row, task=group.name, id=f"{row.task}/{row.id}", group="")
        for part in parts
        for row in part.rows
        if row.task in inside and row.metric in of
    ]
    return Outcome(tuple(rows), tuple(measures))


def _averages(averaged: Any, key: str) -> bool:
    """Whether a group's average of a metric is over this one, with its filter."""
    metric, _, filtered = key.partition(",")
    if key == MARGIN:
        return True
    return averaged.metric == metric and (averaged.filter_list is None or (filtered or "none") in averaged.filter_list)


def _metrics(samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The pairs of a filter and a metric that some sample has, in lm-eval's order."""
    return list(dict.fromkeys((sample["filter"], metric) for sample in samples for metric in sample["metrics"]))


class _Metric:
    """What one of lm-eval's metrics is on one row.

    `form` says what lm-eval gives for a row: a number, a log-likelihood (perplexity), a pair of a log-likelihood and a
    count of words or bytes (weighted, bits), or the right option and all probabilities (brier).
    """

    def __init__(self, metric: str, aggregation: Any, form: str, unit: str = "") -> None:
        self.metric, self.aggregation, self.form, self.unit = metric, aggregation, form, unit

    @staticmethod
    def of(task: Any, metric: str) -> "_Metric":
        from lm_eval.api import metrics  # noqa: PLC0415  an extra

        aggregation = task.aggregation().get(metric)
        unit = metric.partition("_")[0]
        known = {
            metrics.weighted_perplexity: _Metric(metric, aggregation, "weighted", f"per {unit}"),
            metrics.bits_per_byte: _Metric(metric, aggregation, "bits", "bits per byte"),
            metrics.perplexity: _Metric(metric, aggregation, "perplexity"),
            metrics.brier_score: _Metric(metric, aggregation, "brier"),
        }
        return known.get(aggregation, _Metric(metric, aggregation, "number"))

    def value(self, sample: Mapping[str, Any]) -> tuple[float | None, float]:
        """The value on a row and its weight."""
        given = _plain(sample.get(self.metric))
        if given is None or self.unusable(sample):
            return None, 1.0
        if self.form == "weighted":  # nats per word or byte
            return -given[0] / given[1], float(given[1])
        if self.form == "bits":
            return -given[0] / given[1] / math.log(2), float(given[1])
        if self.form == "brier":
            return float(self.aggregation([given])), 1.0
        return float(given) if self.form == "number" else -float(given), 1.0

    def unusable(self, sample: Mapping[str, Any]) -> bool:
        """Whether it has a value of another form than its kind on a row."""
        given = _plain(sample.get(self.metric))
        if given is None:
            return False
        if self.form in ("weighted", "bits"):
            return not (isinstance(given, tuple | list) and len(given) == 2 and given[1] > 0)
        return self.form != "brier" and not isinstance(given, Real)

    def kind(self, rows: Sequence[Row]) -> Literal["share", "mean", "perplexity"]:
        """A share if all values are 0 or 1."""
        if self.form in ("weighted", "perplexity"):
            return "perplexity"
        return "share" if all(row.value in (0, 1) for row in rows if row.value is not None) else "mean"

    def agrees(self, rows: Sequence[Row], aggregate: Any) -> bool:
        """Whether the rows' weighted mean is lm-eval's own figure, where it has a finite one."""
        scored = [(row.value, row.weight) for row in rows if row.value is not None]
        if len(scored) < len(rows) or not isinstance(aggregate, Real) or not math.isfinite(aggregate):
            return True  # rows without a value are not in ours
        mean = sum(value * weight for value, weight in scored) / sum(weight for _, weight in scored)
        if self.form in ("weighted", "perplexity"):
            return math.isclose(mean, math.log(aggregate), rel_tol=1e-6, abs_tol=1e-6)
        return math.isclose(mean, float(aggregate), rel_tol=1e-6, abs_tol=1e-9)


def _plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _row(
    name: str, key: str, condition: str, task: Any, sample: Mapping[str, Any], found: tuple[float | None, float] | str
) -> Row:
    """A row of a metric's value and weight, or of the reason why it has none."""
    value, weight = (None, 1.0) if isinstance(found, str) else found
    why = found if isinstance(found, str) else MISSING if value is None else ""
    if value is not None and not (math.isfinite(value) and _finite(sample)):
        value, why = None, NOT_FINITE
    return Row(
        name,
        key,
        condition,
        str(sample["doc_id"]),
        value,
        why,
        prompt=sample["prompt_hash"],
        input=str(sample["arguments"][0][0])[-MOST_INPUT:],
        answer=_answer(task, sample),
        weight=weight,
    )


def _finite(sample: Mapping[str, Any]) -> bool:
    """Whether every log-likelihood is a finite number; of NaN lm-eval takes the first option for the likeliest."""
    numbers = [given[0] if isinstance(given, tuple | list) and given else given for given in sample["filtered_resps"]]
    return all(math.isfinite(number) for number in numbers if isinstance(number, Real))


def _options(task: Any, sample: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """The options of a row of multiple choice and their log-likelihoods in nats."""
    likelihoods = [float(given[0]) for given in sample["filtered_resps"]]
    if "acc_mutual_info" in sample["metrics"]:
        likelihoods = likelihoods[: len(likelihoods) // 2]  # those without context follow
    options = task.doc_to_choice(sample["doc"]) if hasattr(task, "doc_to_choice") else None
    if not isinstance(options, list) or len(options) != len(likelihoods):
        options = [str(arguments[1]).strip() for arguments in sample["arguments"]][: len(likelihoods)]
    return list(map(str, options)), likelihoods


def _answer(task: Any, sample: Mapping[str, Any]) -> str:
    """The answer as text: what was generated, as the filter leaves it, or the likeliest option."""
    if getattr(task, "OUTPUT_TYPE", None) == "multiple_choice":
        options, likelihoods = _options(task, sample)
        return options[max(range(len(likelihoods)), key=likelihoods.__getitem__)]
    given = sample["filtered_resps"]
    if getattr(task, "OUTPUT_TYPE", None) == "generate_until":
        return str(given[0]) if len(given) == 1 else "\n".join(map(str, given))
    return ""


def _margin(task: Any, sample: Mapping[str, Any]) -> tuple[float, float] | str:
    """How many nats likelier the right option is than the likeliest wrong one."""
    options, likelihoods = _options(task, sample)
    gold = task.doc_to_text(sample["doc"]) if getattr(task, "multiple_input", 0) else sample["target"]
    listed = gold if isinstance(gold, list) else [gold]
    right = {options.index(each) if isinstance(each, str) and each in options else each for each in listed}
    if not right or not all(isinstance(each, int) and 0 <= each < len(options) for each in right):
        return "the right answer is none of the options"
    wrong = [value for i, value in enumerate(likelihoods) if i not in right]
    if not wrong:
        return "every option is right"
    return max(likelihoods[i] for i in right) - max(wrong), 1.0


def _better(task: Any, metric: str) -> Literal["higher", "lower"] | None:
    higher = task.higher_is_better().get(metric)
    return None if higher is None else "higher" if higher else "lower"


def _role(name: str, task: Any) -> Literal["behaviour", "capability"]:
    """What a task's `metadata: {role: ...}` says; else whether it is one of lm-eval's tasks of behaviours."""
    metadata = getattr(task.config, "metadata", None) or {}
    role = metadata.get("role")
    if role is None:
        return "behaviour" if BEHAVIOURS in str(metadata.get("config_source")) else "capability"
    if role not in ROLES:
        raise WsteerError(f"the task {name}: its metadata has the role {str(role)[:40]!r}; write {' or '.join(ROLES)}")
    return role
