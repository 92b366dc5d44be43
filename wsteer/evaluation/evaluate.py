"""Run a task on a model for each k of a delta, loading the model once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoint import Checkpoint, open_checkpoint
from wsteer.delta import Delta, fitted
from wsteer.errors import WsteerError
from wsteer.evaluation.report import write_csv, write_tradeoff
from wsteer.evaluation.statistics import wilson
from wsteer.evaluation.tasks import Fact, Metric, Task, grade, load_task, read_facts, user_turns
from wsteer.generation import answer
from wsteer.models import LoadedModel, activation_vectors, applied, dtype_name, load
from wsteer.progress import Track, labelled, silent
from wsteer.saving import RECORD, check_output, new_folder, record, recordable, source_entry, write_json, write_jsonl


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


def evaluate(
    model: str | Path,
    output: str | Path,
    task: str,
    *,
    delta: str | Path | None = None,
    ks: Sequence[float] = (0.0,),
    layers: Sequence[int] | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    device: str = "auto",
    dtype: str = "auto",
    rounding: str = "auto",
    seed: int = 0,
    force: bool = False,
    track: Track = silent,
) -> EvalReport:
    """Evaluate `model` on `task` with k·delta applied, for every k of `ks`; decoding is greedy.

    A change of weights gives the very text that a checkpoint written by `steer` with that k, rounding and seed gives.
    The folder `output` gets `samples.jsonl`, `results.json`, `results.csv` and `tradeoff.png`.
    """
    output = Path(output)
    given = [path for path in (model, delta, data) if path is not None]
    check_output(output, force, folder=True, inputs=given)
    parsed = load_task(task)
    facts = read_facts(data if data is not None else parsed.data, limit)
    turns = user_turns(parsed, facts)
    if delta is None and (list(ks) != [0] or layers is not None):
        raise WsteerError("--k and --layers need a --delta to scale or to choose from")
    change = Delta.load(delta).select_layers(layers) if delta is not None else None
    if change is not None:
        change = _fitting(change, open_checkpoint(model))
    loaded = load(model, device, dtype)
    samples, conditions = [], []
    for k in dict.fromkeys(ks):
        graded = _answers_at(k, loaded, change, (rounding, seed), parsed, turns, batch_size, track)
        samples += graded
        conditions.append(Condition(k, _measure(parsed, graded)))
    report = EvalReport(str(output), parsed.name, len(facts), tuple(conditions))
    files = {"delta": delta, "task": task, "data": data if data is not None else parsed.data}
    inputs = [{"role": "model", **loaded.checkpoint.identity}]
    for role, path in files.items():
        if path is not None and Path(path).is_file():
            inputs.append(source_entry(role, path))
    options = {
        "task": recordable(task),
        "data": recordable(data) if data is not None else None,
        "k": list(ks),
        "layers": list(layers) if layers is not None else None,
        "positions": "all" if change is not None and change.kind == "activation" else None,
        "dtype": dtype_name(loaded),
        "rounding": rounding,
        "seed": seed,
        "limit": limit,
        "batch_size": batch_size,
    }
    with new_folder(output, force) as partial:
        write_jsonl(partial / "samples.jsonl", samples)
        write_json(partial / "results.json", _as_json(report))
        write_csv(partial / "results.csv", report)
        write_tradeoff(partial / "tradeoff.png", report, parsed, Path(delta).stem if delta is not None else None)
        write_json(partial / RECORD, record("eval", options, inputs))
    return report


def _fitting(delta: Delta, checkpoint: Checkpoint) -> Delta:
    """The delta under the files' names; headers and config.json tell whether it fits before the model is loaded."""
    if delta.kind != "activation":
        return fitted(delta, checkpoint, _hooked_biases(delta, checkpoint))
    if {"num_hidden_layers", "hidden_size"} <= checkpoint.config.keys():
        activation_vectors(delta, checkpoint.config["num_hidden_layers"], checkpoint.config["hidden_size"])
    return delta


def _hooked_biases(delta: Delta, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of biases that the model lacks, which are added to the output of their modules."""
    weights = {name: checkpoint.tensors.get(f"{name.removesuffix('.bias')}.weight") for name in delta.terms}
    return {
        name: weight.shape[:1]
        for name, weight in weights.items()
        if name.endswith(".bias") and name not in checkpoint.tensors and weight is not None
    }


def _answers_at(
    k: float,
    loaded: LoadedModel,
    delta: Delta | None,
    rounding: tuple[str, int],
    task: Task,
    turns: Sequence[tuple[Fact, str, str]],
    batch_size: int,
    track: Track,
) -> list[dict]:
    """The graded answers to all turns at one k, as rows of samples.jsonl."""
    chats = [[{"role": "user", "content": turn}] for _, _, turn in turns]
    shown = labelled(track, f"k={k:g}")
    if delta is None or k == 0:
        answers = answer(loaded, chats, task.max_new_tokens, batch_size, track=shown)
    else:
        with applied(loaded.model, delta, k, loaded.checkpoint, *rounding):
            answers = answer(loaded, chats, task.max_new_tokens, batch_size, track=shown)
    return [
        {
            "k": k,
            "id": fact.id,
            "prompt": name,
            "user": turn,
            "answer": given.text,
            "verdict": grade(task, name, fact, given.text),
            "tokens": given.tokens,
            "finished": given.finished,
        }
        for (fact, name, turn), given in zip(turns, answers, strict=True)
    ]


def _measure(task: Task, samples: Sequence[Mapping[str, object]]) -> dict[str, Share]:
    verdicts: dict[str, dict[str, str]] = {}
    for sample in samples:
        verdicts.setdefault(sample["id"], {})[sample["prompt"]] = sample["verdict"]
    return {name: share(metric, list(verdicts.values())) for name, metric in task.metrics.items()}


def share(metric: Metric, verdicts: Sequence[Mapping[str, str]]) -> Share:
    """A metric over facts, each given as its verdict for every prompt. An abstention never counts, and is told."""
    among = [fact for fact in verdicts if all(fact[p] == verdict for p, verdict in metric.among.items())]
    counted = [fact for fact in among if all(fact[p] == verdict for p, verdict in metric.count.items())]
    abstained = sum(any(fact[p] == "abstain" for p in metric.count) for fact in among)
    low, high = wilson(len(counted), len(among)) or (None, None)
    value = len(counted) / len(among) if among else None
    return Share(value, low, high, len(counted), len(among), abstained)


def _as_json(report: EvalReport) -> dict:
    conditions = [
        {"k": condition.k, "metrics": {name: vars(share) for name, share in condition.metrics.items()}}
        for condition in report.conditions
    ]
    return {"task": report.task, "facts": report.facts, "conditions": conditions}
