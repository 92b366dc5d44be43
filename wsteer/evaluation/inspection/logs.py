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
UNSCORED, FAILED = "unscored", "failed: "  # the scorer gave no value; an error came before it could
CANCELLED = "model call cancelled"  # inspect_ai's word for calls that ended because another failed
CUTS = ("max_tokens", "model_length")  # what inspect_ai says of an answer that a limit ended
DECLARED = "wsteer_measures"  # of a task's metadata: the fields of `Measure` by metric, if it says what its metrics are
WHY = "wsteer_why"  # of a score's metadata: by metric, why it has no value
GROUP = "wsteer_group"  # of a sample's metadata: the name of rows that are not independent; the sample's own without it
OURS = "wsteer/"  # the package of the paper's tasks
ROLE = "grader"  # the role under which inspect_ai's scorers ask for their judge
# the values in words that mean a number, as inspect_ai's own metrics read them; they take all others for 0
GRADES = re.compile(r"[CIPN]|yes|no|true|false|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)

Scored = dict[str, dict[str, tuple[float | None, str]]]  # (value, why there is none) by scorer and key


@dataclass(frozen=True)
class TaskLog:
    """What one log holds: the task, the model's name, the rows, and the errors of samples that have no score.

    `judged` is how many calls each model in the role `grader` answered. `measures` are those that the task declares, by
    (task, metric).
    """

    task: str
    model: str
    rows: tuple[Row, ...]
    errors: Mapping[str, str] = field(default_factory=dict)  # by the row's id
    judged: Mapping[str, int] = field(default_factory=dict)
    measures: Mapping[tuple[str, str], Measure] = field(default_factory=dict)


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
        task, condition = task_name(log.eval.task), condition_of(log.eval.model)
        samples: list[tuple[Row, Scored]] = []
        judged: dict[str, int] = {}
        for sample in read_eval_log_samples(str(path), all_samples_required=False, resolve_attachments="core"):
            samples.append((_row(task, condition, sample), _scored(sample)))
            for event in sample.events:
                if event.event == "model" and event.role == ROLE and event.error is None:
                    judged[event.model] = judged.get(event.model, 0) + 1
    declared = _declared(task, log.eval.metadata or {})
    rows = tuple(_rows(samples, declared))
    errors = {row.id: row.why.removeprefix(FAILED) for row, _ in samples if row.why.startswith(FAILED)}
    places = {(measure.task, measure.metric): measure for measure in declared.values()}
    return TaskLog(task, log.eval.model, rows, errors, judged, places)


def task_name(name: str) -> str:
    """The name that rows have for a task, of what inspect_ai calls it: the paper's are known by their own."""
    return (name.partition("@")[2] or name).removeprefix(OURS)


def _declared(task: str, metadata: Mapping[str, object]) -> dict[str, Measure]:
    """The measures that a task's metadata name, by metric."""
    found = metadata.get(DECLARED)
    if not isinstance(found, dict):
        return {}
    try:
        return {
            str(name): Measure.of_json({"task": task, "metric": str(name), **given}) for name, given in found.items()
        }
    except (TypeError, ValueError) as error:
        raise WsteerError(
            f"the task {task} has {DECLARED!r} in its metadata that are none: {one_line(str(error))}"
        ) from None


def _rows(samples: Sequence[tuple[Row, Scored]], declared: Mapping[str, Measure]) -> Iterator[Row]:
    """The rows of each sample in each metric that any of them has; a declared one goes by its key alone."""
    parts: dict[str, dict[str, None]] = {}  # of each scorer: "" for a value alone, or the keys of its values
    for _, scored in samples:
        for scorer, found in scored.items():
            parts.setdefault(scorer, {}).update(dict.fromkeys(found))
    for row, scored in samples:
        for scorer, known in parts.items():
            keys = [key for key in known if key] or [""]  # a scorer that gives no value gives no keys
            found = scored.get(scorer, {})
            for key in keys:
                value, why = found.get(key) or found.get("") or (None, row.why)
                metric = key if key in declared else f"{scorer}.{key}" if key else scorer
                yield replace(row, metric=metric, value=value, why=why)


def measures(rows: Sequence[Row], declared: Mapping[tuple[str, str], Measure]) -> tuple[Measure, ...]:
    """How each metric of these rows becomes one number: as its task declares; else a share if all are 0 or 1."""
    values: dict[tuple[str, str], set[float]] = {}
    for row in rows:
        values.setdefault((row.task, row.metric), set()).update(() if row.value is None else (row.value,))
    return tuple(
        declared.get((task, metric))
        or Measure(task, metric, "share" if found <= {0.0, 1.0} else "mean", better="higher")
        for (task, metric), found in values.items()
    )


def all_alike(log: TaskLog) -> str:
    """That a task's epochs gave nothing new, if they did not; a line of warning."""
    answers: dict[str, list[str]] = {}
    for row in log.rows:
        if row.metric == log.rows[0].metric:
            answers.setdefault(row.id.rpartition(".")[0], []).append(row.answer)  # without the epoch
    again = max(map(len, answers.values()), default=1)
    if again == 1 or any(len(set(each)) > 1 for each in answers.values()):
        return ""
    served = "" if log.model.startswith(OURS) else ", and whatever serves the model heed it"
    return (
        f"{log.task} asks each sample {again} times, and all answers to one are equal: let the task set a temperature"
        f"{served}"
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
        why=UNSCORED if sample.error is None else f"{FAILED}{_said(sample) or one_line(sample.error.message)}",
        group=str((sample.metadata or {}).get(GROUP, sample.id)),
        prompt=prompt_digest(*texts, *(sample.choices or ())),
        input=given if isinstance(given, str) else "\n".join(each.text for each in given),
        answer=sample.output.completion,
        finished=sample.limit is None and not any(each.stop_reason in CUTS for each in sample.output.choices[:1]),
    )


def _scored(sample: "EvalSample") -> Scored:
    """The sample's values by scorer and, if a scorer gives several, by key."""
    found: Scored = {}
    for name, score in (sample.scores or {}).items():
        given = score.value
        parts = given if isinstance(given, dict) else dict(enumerate(given)) if isinstance(given, list) else {"": given}
        whys = (score.metadata or {}).get(WHY)
        said = whys if isinstance(whys, dict) else {}
        found[name] = {
            str(key): (None, one_line(str(said[key]))) if said.get(key) else _value(value, score, sample)
            for key, value in parts.items()
        }
    return found


def _value(given: object, score: "Score", sample: "EvalSample") -> tuple[float | None, str]:
    """(the value, ""), or (None, why there is none)."""
    from inspect_ai.scorer import value_to_float  # noqa: PLC0415

    if isinstance(given, str) and not GRADES.fullmatch(given.strip()):
        return None, f"no number: {one_line(given)[:40]}"
    number = given.strip() if isinstance(given, str) else given
    if isinstance(number, str | int | float) and math.isfinite(value := value_to_float()(number)):
        return value, ""
    if score.reason == "grader_failed":
        stopped = [e.output.stop_reason for e in sample.events if e.event == "model" and e.role == ROLE]
        return None, FILTERED if "content_filter" in stopped else UNPARSED
    if isinstance((score.metadata or {}).get("panel"), list | dict):
        return None, "no majority"
    return None, one_line(score.reason or "") or UNSCORED


def _failure(path: str | Path, log: "EvalLog") -> str:
    """Why a task failed: what its first failing call of a model said, else the task's own error."""
    from inspect_ai.log import read_eval_log_samples  # noqa: PLC0415

    if log.status == "cancelled":
        return "it was interrupted"
    for sample in read_eval_log_samples(str(path), all_samples_required=False):
        if sample.error is not None and (said := _said(sample)):
            return said
    return one_line(log.error.message) if log.error is not None else log.status


def _said(sample: "EvalSample") -> str:
    """What the model call said that made a sample fail, with the judge's name if it was a judge's; "" if none did."""
    # those that were cancelled are not what failed
    calls = [each for each in sample.events if each.event == "model" and each.error and CANCELLED not in each.error]
    if not calls:
        return ""
    last, said = calls[-1], one_line(str(calls[-1].error))
    judge = last.role == ROLE and not last.model.startswith("wsteer")  # ours say themselves what is wrong
    return f"the judge {last.model} does not answer: {said}" if judge else said


def one_line(text: str) -> str:
    """An error's text in one line, without the class that `repr` writes, and inspect_ai's marks of bold type."""
    line = " ".join(re.sub(r"\[/?(?:bold|blue|italic)\]", "", text).split())[:400]
    found = re.fullmatch(r"\w*Error\((['\"])(.*)\1\)", line)
    return found[2] if found else line
