"""Run a task on a model for each k of a delta, loading the model once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wsteer.checkpoints.architecture import read_config
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import open_change
from wsteer.deltas.model_input import open_model, short_name
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.evaluation.answering import grade
from wsteer.evaluation.report import write_results, write_tradeoff
from wsteer.evaluation.results import CUT, ConditionResult, EvalReport, cut_before_answers, mostly_abstained, shares
from wsteer.evaluation.scoring import own_words
from wsteer.evaluation.tasks.facts import Fact, read_facts
from wsteer.evaluation.tasks.task import Task, load_task, task_file
from wsteer.evaluation.tasks.turns import user_turns
from wsteer.files.opening import is_stream
from wsteer.files.provenance import RECORD, record, recordable, source_entry
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json, write_jsonl
from wsteer.models.arguments import check_count, check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.generation import answer
from wsteer.models.loading import LoadedModel, dtype_name, with_template_of
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.combination import base_notes, check_k
from wsteer.steering.loading import changed, load
from wsteer.steering.memory import activation_vectors
from wsteer.steering.rounding import Rounding

BATCH_SIZE = 32  # rows that run at once by default


def evaluate(
    model: str | Path,
    output: str | Path,
    task: str,
    *,
    delta: str | Path | None = None,
    ks: float | Sequence[float] = (0.0,),
    layers: Sequence[int] | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    dtype: str = "auto",
    rounding: str = "auto",
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> EvalReport:
    """Evaluate `model` on `task` with k·delta applied, for every k of `ks`; decoding is greedy.

    `model` may be an adapter, which is its base plus its change; `delta` is a delta file, an adapter or a checkpoint.
    A model without a chat template gets that of the delta's folder, with its arguments and date.
    With a change of weights the answers equal those of a checkpoint that `steer` writes with that k, rounding and seed.
    The folder `output` gets `samples.jsonl`, `results.json`, `results.csv` and `tradeoff.png`.
    `template` (a jinja file), `template_args` and `date` say how chats become text.
    """
    wanted = Rounding(rounding, seed)
    check_run(batch_size, device, dtype)
    chat_format = ChatFormat(template, template_args, date)
    check_count("limit", 1 if limit is None else limit)
    ks = _checked(ks)
    output = Path(output)
    parsed = load_task(task)
    given = [path for path in (model, task_file(task), delta, data, parsed.data) if path is not None]
    check_output(output, force, folder=True, inputs=[*given, *chat_format.files])
    facts = read_facts(data if data is not None else parsed.data, limit)
    turns = user_turns(parsed, facts)
    if delta is None and (list(ks) != [0] or layers is not None):
        raise WsteerError("--k and --layers need a --delta to scale or to choose from")
    change: Delta | None = None
    named_apart: tuple[str, ...] = ()
    opened = open_model(model)
    if delta is not None:
        source, change, folder = _chosen(delta, layers, opened.checkpoint)
        named_apart = base_notes(str(delta), change, opened.checkpoint)
    loaded = load(opened, device, dtype, chat_format=chat_format)
    if delta is not None and not Path(delta).is_file():
        loaded = with_template_of(folder, loaded, chat_format)
    if change is not None and change.kind == "activation":
        for k in ks:
            with changed(loaded, change, k):
                pass  # a k that the model cannot add is refused before any answer
    samples: list[dict] = []
    conditions: list[ConditionResult] = []
    for k in dict.fromkeys(k + 0.0 for k in ks):  # 0 for -0
        graded = _answers_at(k, loaded, change, wanted, parsed, turns, batch_size, progress)
        samples += graded
        conditions.append(ConditionResult(k, shares(parsed, graded)))
    warnings = (*named_apart, *mostly_abstained(conditions), *cut_before_answers(parsed, samples))
    report = EvalReport(str(output), parsed.name, len(facts), tuple(conditions), warnings)
    files = {"task": task, "data": data if data is not None else parsed.data}
    inputs = [*loaded.entries("model"), *chat_format.inputs, *([source] if delta is not None else [])]
    for role, path in files.items():
        if path is not None and (Path(path).is_file() or is_stream(path)):
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
        **loaded.chat.recorded,
    }
    with new_folder(output, force) as partial:
        write_jsonl(partial / "samples.jsonl", samples)
        write_json(partial / "results.json", report.as_json())
        write_results(partial / "results.csv", report)
        write_tradeoff(partial / "tradeoff.png", report, parsed, short_name(delta) if delta is not None else None)
        write_json(partial / RECORD, record("eval", options, inputs))
    return report


def _checked(ks: float | Sequence[float]) -> tuple[float, ...]:
    """The coefficients, of which there is one or more; a number alone is one."""
    ks = (ks,) if isinstance(ks, int | float) else tuple(ks)
    if not ks:
        raise WsteerError("ks names no k; give one or more, as (0, 1)")
    for k in ks:
        check_k(k)
    return ks


def _chosen(
    reference: str | Path, layers: Sequence[int] | None, checkpoint: Checkpoint
) -> tuple[Mapping[str, object], Delta, Path]:
    """The delta's entry in records, its part in these decoder blocks, as the model's files name it, and its folder.

    It is checked against headers and config.json before the model is loaded. Of several activation vectors the blocks
    must be named.
    """
    selection = Selection(layers)
    given = open_change(reference, "delta", checkpoint, selection, _hooked_biases)
    delta = given.delta
    if delta.kind != "activation":
        selection.check({*delta.terms, *given.left_out}, checkpoint)
        return given.source, delta, given.files[0].parent
    if layers is None and len(delta.terms) > 1:
        raise WsteerError(
            f"{reference} holds the activation vectors of {len(delta.terms)} blocks, and each one already has what the "
            "blocks before it add: choose where to add one with --layers, as --layers 12"
        )
    delta, sizes = delta.select_layers(layers), read_config(checkpoint).get_text_config()
    activation_vectors(delta, sizes.num_hidden_layers, sizes.hidden_size)
    return given.source, delta, given.files[0].parent


def _hooked_biases(delta: Delta, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of biases that the model lacks; they are added to the output of their modules."""
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
    rounding: Rounding,
    task: Task,
    turns: Sequence[tuple[Fact, str, str]],
    batch_size: int,
    progress: Progress,
) -> list[dict]:
    """The graded answers to all turns at one k, as rows of samples.jsonl."""
    chats = [[{"role": "user", "content": turn}] for _, _, turn in turns]
    stages = labelled(progress, f"k={k:g}")
    if delta is None or k == 0:
        answers = answer(loaded, chats, task.max_new_tokens, batch_size, progress=stages)
    else:
        with changed(loaded, delta, k, rounding.mode, rounding.seed):
            answers = answer(loaded, chats, task.max_new_tokens, batch_size, progress=stages)
    return [
        {
            "k": k,
            "id": fact.id,
            "prompt": name,
            "user": turn,
            "answer": given.text,
            "thought": given.thought,
            "verdict": grade(task, name, fact, own_words(given.text, turn)) if given.reached else CUT,
            "tokens": given.tokens,
            "finished": given.finished,
        }
        for (fact, name, turn), given in zip(turns, answers, strict=True)
    ]
