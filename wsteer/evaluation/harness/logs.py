"""Files of lm-evaluation-harness's own runs as rows: results_*.json, and beside it samples_*.jsonl."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wsteer.errors import WsteerError
from wsteer.evaluation.harness.samples import BEHAVIOURS, MARGIN, MOST_INPUT
from wsteer.evaluation.rows import Measure, Outcome, Row
from wsteer.files.rows import read_objects
from wsteer.files.text import read_json

KEYS = ("results", "configs", "higher_is_better")  # of a results file
SAMPLE = ("doc_id", "filter", "metrics", "filtered_resps", "arguments")  # of a line of a samples file
PAIRS = {"word_perplexity": "per word", "byte_perplexity": "per byte", "bits_per_byte": ""}  # (log-likelihood, count)
Found = Mapping[str, Any]


@dataclass(frozen=True)
class LmRun:
    """One results file, the model's name and arguments, and the samples file of each task."""

    path: Path
    model: str
    arguments: Mapping[str, object]
    samples: Mapping[str, Path]
    results: Found


def read_run(path: Path) -> LmRun:
    """A results file of lm-eval. Raises WsteerError if it is something else, or has no samples files beside it."""
    found = read_json(path)
    if not all(isinstance(found.get(key), dict) for key in KEYS):
        raise WsteerError(f"{path} is no results file of lm-eval; give results_*.json, or the folder that holds it")
    config = found.get("config")
    config = config if isinstance(config, dict) else {}
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        pairs = (part.partition("=") for part in arguments.split(","))
        arguments = {key.strip(): value.strip() for key, _, value in pairs}
    arguments = arguments if isinstance(arguments, dict) else {}
    stamp = path.stem.rpartition("_")[2]  # the same in the names of the run's files
    beside = {file.name: file for file in path.parent.iterdir()}  # a task's name may be that of no file
    files = {task: beside.get(f"samples_{task}_{stamp}.jsonl") for task in found["configs"]}
    samples = {task: file for task, file in files.items() if file is not None and file.is_file()}
    if not samples:
        raise WsteerError(f"{path} has no samples_*_{stamp}.jsonl beside it; run lm-eval with --log_samples")
    return LmRun(path, str(found.get("model_name") or config.get("model") or "model"), arguments, samples, found)


def read_tasks(run: LmRun, condition: str) -> Iterator[tuple[str, Outcome]]:
    """(task, outcome) of each task of the run, and of each group whose figure is the mean over its tasks' rows."""
    subtasks = _mapping(run.results.get("group_subtasks"))
    groups = {name: _leaves(subtasks, name) for name, inside in subtasks.items() if inside}
    inside = {task for leaves in groups.values() for task in leaves}
    found = {task: _outcome(run, task, file, condition, task not in inside) for task, file in run.samples.items()}
    for group, leaves in groups.items():
        parts = [found[task] for task in leaves if task in found]
        if len(parts) == len(leaves) and (pooled := _pooled(run.results, group, parts)).rows:
            yield group, pooled
    yield from found.items()


def _leaves(subtasks: Found, group: str, depth: int = 0) -> list[str]:
    """The tasks in a group, and in the groups in it, which nest no deeper than 8."""
    named = subtasks.get(group)
    if not isinstance(named, list) or not named or depth > 8:
        return [group]
    return list(dict.fromkeys(leaf for each in named for leaf in _leaves(subtasks, str(each), depth + 1)))


def _outcome(run: LmRun, task: str, file: Path, condition: str, alone: bool) -> Outcome:
    samples, seen = [], set()
    for where, sample in read_objects(file):
        if any(key not in sample for key in SAMPLE) or not isinstance(sample["metrics"], list):
            raise WsteerError(f"{where} is no sample of lm-eval")
        row = str(sample["doc_id"]), str(sample["filter"])
        if row in seen:
            raise WsteerError(f"{where} has the row {row[0]} again; give the samples of one run")
        seen.add(row)
        samples.append(sample)
    config, figures = _mapping(run.results["configs"].get(task)), _mapping(run.results["results"].get(task))
    higher = _mapping(run.results["higher_is_better"].get(task))
    rows: list[Row] = []
    measures: list[Measure] = []
    warnings: list[str] = []
    for filtered, metric in dict.fromkeys((str(s["filter"]), str(m)) for s in samples for m in s["metrics"]):
        key = metric if filtered == "none" else f"{metric},{filtered}"
        chosen = [sample for sample in samples if str(sample["filter"]) == filtered]
        made = [_row(task, key, condition, sample, _value(metric, sample)) for sample in chosen]
        kind = _kind(metric, made)
        if not made or not _agrees(made, kind, figures.get(f"{metric},{filtered}")):
            warnings.append(f"{file.name}: {metric} of {task} is no mean over its rows, and is left out")
            continue
        better: Literal["higher", "lower"] | None = None
        if isinstance(higher.get(metric), bool):
            better = "higher" if higher[metric] else "lower"
        rows += made
        measures.append(Measure(task, key, kind, better, unit=PAIRS.get(metric, "")))
    if config.get("output_type") == "multiple_choice" and samples:
        chosen = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        rows += [_row(task, MARGIN, condition, sample, _margin(sample)) for sample in chosen]
        measures.append(Measure(task, MARGIN, "mean", "higher", unit="nats"))
    if measures and alone:
        measures[0] = replace(measures[0], role=_role(config))
    return Outcome(tuple(rows), tuple(measures), tuple(warnings))


def _pooled(results: Found, group: str, parts: Sequence[Outcome]) -> Outcome:
    """The rows of a group's tasks as one task, in the metrics whose mean over the rows is the group's own figure."""
    figures = _mapping(results["results"].get(group))
    rows: list[Row] = []
    measures: list[Measure] = []
    for measure in dict.fromkeys(replace(each, role=None) for part in parts for each in part.measures):
        metric, _, filtered = measure.metric.partition(",")
        mine = [row for part in parts for row in part.rows if row.metric == measure.metric]
        figure = figures.get(f"{metric},{filtered or 'none'}")
        pooled = any(each.metric == measure.metric for each in measures)
        if not _finite(figure) or pooled or not _agrees(mine, measure.kind, figure):
            continue
        measures.append(replace(measure, task=group, role=None if measures else "capability"))
        rows += [replace(row, task=group, id=f"{row.task}/{row.id}", group="") for row in mine]
    return Outcome(tuple(rows), tuple(measures))


def _row(task: str, key: str, condition: str, sample: Found, found: tuple[float, float] | str) -> Row:
    """A row of a metric's (value, weight), or of the reason why it has none."""
    value, weight, why = (None, 1.0, found) if isinstance(found, str) else (*found, "")
    calls = [call for call in _mapping(sample["arguments"]).values() if isinstance(call, dict)]
    return Row(
        task,
        key,
        condition,
        str(sample["doc_id"]),
        value,
        why,
        prompt=str(sample.get("prompt_hash") or ""),
        input=str(calls[0].get("arg_0", ""))[-MOST_INPUT:] if calls else "",
        answer=_answer(sample, calls),
        weight=weight,
    )


def _value(metric: str, sample: Found) -> tuple[float, float] | str:
    """(value, weight) of one row. A perplexity's value is in nats; of pairs it is per word or byte, the weight."""
    given = sample.get(metric)
    if metric in PAIRS and isinstance(given, list) and len(given) == 2 and _finite(given[0]) and _finite(given[1]):
        per = -given[0] / given[1] if given[1] > 0 else math.nan
        return (per / math.log(2) if metric == "bits_per_byte" else per, float(given[1])) if per == per else "no text"
    if given is None:
        return "lm-eval gave no value"
    if not _finite(given):
        return "failed: not a finite number" if isinstance(given, float) else "no number"
    return -float(given) if metric == "perplexity" else float(given), 1.0


def _kind(metric: str, rows: Sequence[Row]) -> Literal["share", "mean", "perplexity"]:
    if metric in ("perplexity", "word_perplexity", "byte_perplexity"):
        return "perplexity"
    return "share" if all(row.value in (0, 1) for row in rows if row.value is not None) else "mean"


def _agrees(rows: Sequence[Row], kind: str, figure: object) -> bool:
    """Whether the rows' weighted mean is lm-eval's own figure, where both are known."""
    scored = [(row.value, row.weight) for row in rows if row.value is not None]
    if not scored:
        return False
    if len(scored) < len(rows) or not isinstance(figure, int | float) or not _finite(figure):
        return True
    mean = sum(value * weight for value, weight in scored) / sum(weight for _, weight in scored)
    return math.isclose(math.exp(min(mean, 700)) if kind == "perplexity" else mean, figure, rel_tol=1e-5, abs_tol=1e-9)


def _answer(sample: Found, calls: Sequence[Found]) -> str:
    """What was generated, as the filter leaves it; of several options the likeliest."""
    options, likelihoods = _options(sample, calls)
    if likelihoods:
        return options[max(range(len(likelihoods)), key=likelihoods.__getitem__)]
    given = sample["filtered_resps"]
    texts = [each for each in given if isinstance(each, str)] if isinstance(given, list) else [str(given)]
    return "" if texts and len(calls) == 1 and "arg_1" not in calls[0] else "\n".join(texts)


def _options(sample: Found, calls: Sequence[Found]) -> tuple[list[str], list[float]]:
    """The options of multiple choice and their log-likelihoods; none for a task of another kind."""
    given = sample["filtered_resps"]
    pairs = [each for each in given if isinstance(each, list) and len(each) == 2] if isinstance(given, list) else []
    numbers = [_likelihood(pair[0]) for pair in pairs]
    likelihoods = [number for number in numbers if number is not None]
    if len(likelihoods) < 2 or len(likelihoods) != len(given):
        return [], []
    if "acc_mutual_info" in sample["metrics"]:
        likelihoods = likelihoods[: len(likelihoods) // 2]  # those without context follow
    options = [str(call.get("arg_1", "")).strip() for call in calls][: len(likelihoods)]
    return (options, likelihoods) if len(options) == len(likelihoods) else ([], [])


def _margin(sample: Found) -> tuple[float, float] | str:
    """How many nats likelier the right option is than the likeliest wrong one."""
    calls = [call for call in _mapping(sample["arguments"]).values() if isinstance(call, dict)]
    options, likelihoods = _options(sample, calls)
    target = str(sample.get("target"))
    right = int(target) if target.isdecimal() else options.index(target.strip()) if target.strip() in options else -1
    if not 0 <= right < len(options):
        return "the right answer is none of the options"
    wrong = [value for i, value in enumerate(likelihoods) if i != right]
    return likelihoods[right] - max(wrong), 1.0


def _likelihood(given: object) -> float | None:
    try:
        number = float(str(given))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _role(config: Found) -> Literal["behaviour", "capability"]:
    """What the task's `metadata: {role: ...}` says; else whether it is one of lm-eval's tasks of behaviours."""
    metadata = _mapping(config.get("metadata"))
    if metadata.get("role") in ("behaviour", "capability"):
        return "behaviour" if metadata["role"] == "behaviour" else "capability"
    return "behaviour" if BEHAVIOURS in str(metadata.get("config_source")) else "capability"


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mapping(value: object) -> Found:
    return value if isinstance(value, dict) else {}
