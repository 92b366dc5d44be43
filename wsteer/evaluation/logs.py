"""Logs of inspect_ai as rows: each scorer's value on each sample, or why there is none."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsteer.errors import WsteerError, one_error
from wsteer.evaluation.rows import Measure, Row, prompt_digest

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.scorer import Score

UNPARSED = "unparsed"  # the judge answered, and its answer has no verdict
FILTERED = "filtered"  # the judge's endpoint withheld the answer
ROLE = "grader"  # the role under which inspect_ai's scorers ask for their judge
# the values in words that mean a number, as inspect_ai's own metrics read them; they take all others for 0
GRADES = re.compile(r"[CIPN]|yes|no|true|false|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)


@dataclass(frozen=True)
class TaskLog:
    """What one log holds: the task, the model's name, the rows, and the errors of samples that have no score.

    `judged` is how many calls each model in the role `grader` answered.
    """

    task: str
    model: str
    rows: tuple[Row, ...]
    errors: Mapping[str, str] = field(default_factory=dict)  # by the row's id
    judged: Mapping[str, int] = field(default_factory=dict)


def read_log(path: str | Path, condition_of: Callable[[str], str], unfinished: bool = False) -> TaskLog:
    """Read one log of inspect_ai; `condition_of` gives the condition's name for the model's.

    A sample that failed has a row without a value in each metric that other samples have. Raises WsteerError for a
    log that cannot be read, or that ends in an error unless it may be `unfinished`.
    """
    from inspect_ai.log import read_eval_log, read_eval_log_samples  # noqa: PLC0415  an extra

    with one_error(f"{path} cannot be read as a log of inspect_ai"):
        log = read_eval_log(str(path), header_only=True)
        if log.status != "success" and not unfinished:
            raise WsteerError(f"{log.eval.task} at {log.eval.model} ended before it was done: {_failure(path, log)}")
        condition = condition_of(log.eval.model)
        rows: list[Row] = []
        failed: dict[str, Row] = {}
        judged: dict[str, int] = {}
        for sample in read_eval_log_samples(str(path), all_samples_required=False, resolve_attachments="core"):
            row = _row(log.eval.task, condition, sample)
            if sample.error is not None and not sample.scores:
                failed[row.id] = replace(row, why=f"failed: {_said(sample) or _one_line(sample.error.message)}")
            for name, score in _scores(sample):
                value, why = _value(score, sample)
                rows.append(replace(row, metric=name, value=value, why=why))
            for event in sample.events:
                if event.event == "model" and event.role == ROLE and event.error is None:
                    judged[event.model] = judged.get(event.model, 0) + 1
    for metric in dict.fromkeys(row.metric for row in rows):
        scored = {row.id for row in rows if row.metric == metric}
        rows += [replace(row, metric=metric) for row in failed.values() if row.id not in scored]
    errors = {name: row.why.removeprefix("failed: ") for name, row in failed.items()}
    return TaskLog(log.eval.task, log.eval.model, tuple(rows), errors, judged)


def measures(rows: Sequence[Row]) -> tuple[Measure, ...]:
    """How each metric of these rows becomes one number: a share if all values are 0 or 1, else a mean."""
    values: dict[tuple[str, str], set[float]] = {}
    for row in rows:
        values.setdefault((row.task, row.metric), set()).update(() if row.value is None else (row.value,))
    return tuple(
        Measure(task, metric, "share" if found <= {0.0, 1.0} else "mean", better="higher")
        for (task, metric), found in values.items()
    )


def _row(task: str, condition: str, sample: "EvalSample") -> Row:
    """The sample as a row that has neither a metric nor a value yet."""
    given = sample.input
    texts = [given] if isinstance(given, str) else [part for each in given for part in (each.role, each.text)]
    return Row(
        task=task,
        metric="",
        condition=condition,
        id=f"{sample.id}.{sample.epoch}",
        value=None,
        why="failed",
        group=str(sample.id),
        prompt=prompt_digest(*texts, *(sample.choices or ())),
        input=given if isinstance(given, str) else "\n".join(each.text for each in given),
        answer=sample.output.completion,
    )


def _scores(sample: "EvalSample") -> Iterator[tuple[str, "Score"]]:
    """(metric, score) of a sample, each value of a dict or a list as a metric of its own."""
    for name, score in (sample.scores or {}).items():
        if isinstance(score.value, dict):
            for key, value in score.value.items():
                yield f"{name}.{key}", score.model_copy(update={"value": float("nan") if value is None else value})
        elif isinstance(score.value, list):
            for number, value in enumerate(score.value):
                yield f"{name}.{number}", score.model_copy(update={"value": value})
        else:
            yield name, score


def _value(score: "Score", sample: "EvalSample") -> tuple[float | None, str]:
    """(the value, ""), or (None, why there is none)."""
    from inspect_ai.scorer import value_to_float  # noqa: PLC0415

    given = score.value
    if isinstance(given, str) and not GRADES.fullmatch(given.strip()):
        return None, f"no number: {_one_line(given)[:40]}"
    value = value_to_float()(given.strip() if isinstance(given, str) else given)
    if math.isfinite(value):
        return value, ""
    if score.reason == "grader_failed":
        stopped = [e.output.stop_reason for e in sample.events if e.event == "model" and e.role == ROLE]
        return None, FILTERED if "content_filter" in stopped else UNPARSED
    if isinstance((score.metadata or {}).get("panel"), list | dict):
        return None, "no majority"
    return None, _one_line(score.reason or "") or "unscored"


def _failure(path: str | Path, log: "EvalLog") -> str:
    """Why a task failed: what its first failing call of a model said, else the task's own error."""
    from inspect_ai.log import read_eval_log_samples  # noqa: PLC0415

    if log.status == "cancelled":
        return "it was interrupted"
    for sample in read_eval_log_samples(str(path), all_samples_required=False):
        if sample.error is not None and (said := _said(sample)):
            return said
    return _one_line(log.error.message) if log.error is not None else log.status


def _said(sample: "EvalSample") -> str:
    """What the model call said that made a sample fail, with the judge's name if it was a judge's; "" if none did."""
    calls = [event for event in sample.events if event.event == "model" and event.error]
    if not calls:
        return ""
    last, said = calls[-1], _one_line(str(calls[-1].error))
    judge = last.role == ROLE and not last.model.startswith("wsteer")  # ours say themselves what is wrong
    return f"the judge {last.model} does not answer: {said}" if judge else said


def _one_line(text: str) -> str:
    """An error's text in one line, without the class that `repr` writes."""
    line = " ".join(text.split())[:400]
    found = re.fullmatch(r"\w*Error\((['\"])(.*)\1\)", line)
    return found[2] if found else line
