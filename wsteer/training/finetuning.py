"""Fine-tune a base on chat answers and write the result: an adapter, a delta of biases, or a checkpoint."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from wsteer.data import Example, read_chats, render
from wsteer.errors import WsteerError
from wsteer.models import LoadedModel, check_lengths, dtype_name, load
from wsteer.progress import Track, silent
from wsteer.saving import (
    RECORD,
    check_output,
    new_folder,
    partial_folder,
    record,
    source_entry,
    write_json,
    write_jsonl,
)
from wsteer.training import methods, processes
from wsteer.training.engine import Rows, plan
from wsteer.training.rates import STATES, Interrupted, Run, TrainedRate, saved_steps, train_rates
from wsteer.training.recipe import Recipe
from wsteer.training.rows import Source, mixed, parse_source, split_rows

LOG = "log.jsonl"


@dataclass(frozen=True)
class FinetuneReport:
    """What `finetune` wrote; losses are means over the answers' tokens, in nats, None without validation rows.

    `lr` and `step` are those kept, of the `steps` trained at that rate; `rates` tells of each rate that was tried.
    """

    output: str
    method: str
    lr: float
    step: int
    steps: int
    rows_train: int
    rows_val: int
    tokens_per_row: float
    trained_parameters: int
    train_loss: float
    val_loss_before: float | None
    val_loss: float | None
    rates: tuple[dict, ...]
    warnings: tuple[str, ...] = ()


def finetune(
    base: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    val: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    save_every: int | None = None,
    resume: bool = False,
    force: bool = False,
    track: Track = silent,
) -> FinetuneReport:
    """Fine-tune `base` on the answers in `data`, one data set or several, and write the result with its log.

    `data` may carry weights (`neg.jsonl:6`); `val` is a data set that validates in place of a share of `data`. The loss
    is on each answer and the end-of-turn that follows it. Two runs with one seed start from the same initial A, so that
    what pos and neg share cancels in their difference. With `resume`, an interrupted run of the same goes on where it
    stopped and ends with the same bytes.
    """
    recipe = recipe or Recipe()
    output = Path(output)
    sources = [parse_source(each) for each in ([data] if isinstance(data, str | Path) else data)]
    check_output(output, force, folder=True, inputs=[base, *(source.path for source in sources)])
    if len(recipe.rates) > 1 and val is None and not recipe.val_fraction:
        raise WsteerError("several --lr are compared by their validation loss; give --val or a --val-fraction above 0")
    chats = [read_chats(source.path) for source in sources]
    val_chats = read_chats(val) if val is not None else []
    processes.join(device)
    loaded = load(base, device, dtype)
    sets = [[render(loaded.tokenizer, chat) for chat in each] for each in chats]
    val_rows = [render(loaded.tokenizer, chat) for chat in val_chats]
    check_lengths(loaded, (len(example.tokens) for rows in [*sets, val_rows] for example in rows))
    if val is None:
        split = [split_rows(rows, recipe.val_fraction, recipe.seed) for rows in sets]
        sets, val_rows = [train for train, _ in split], [row for _, kept in split for row in kept]
    train_rows = mixed(sets, [source.weight for source in sources], recipe.fraction, recipe.seed)
    recorded = _record(loaded, recipe, sources, val)
    with _shared_folder(output, force, _key(recorded), resume) as partial:
        model = methods.prepare(loaded, base, recipe)
        run = _run(model, loaded, recipe, train_rows, val_rows, partial, save_every, track)
        trained, best, kept = train_rates(run)
        if processes.rank() == 0:
            _write(run, trained, best, kept, recorded)
    return _report(output, run, trained, best, train_rows, val_rows)


@contextlib.contextmanager
def _shared_folder(output: Path, force: bool, key: str, resume: bool) -> Iterator[Path]:
    """The folder to write: the first process makes it, and puts it in its place when all are done."""
    if processes.rank():
        processes.wait()
        yield partial_folder(output, key)
        processes.wait()
        return
    try:
        with new_folder(output, force, key, resume) as partial:
            processes.wait()
            yield partial
            processes.wait()
    except Interrupted as interrupted:
        raise Interrupted(f"{interrupted}; go on with the same command and --resume") from None


def _run(
    model: nn.Module,
    loaded: LoadedModel,
    recipe: Recipe,
    train_rows: Sequence[Example],
    val_rows: Sequence[Example],
    folder: Path,
    save_every: int | None,
    track: Track,
) -> Run:
    initial = methods.copied_state(model)
    pad = loaded.tokenizer.pad_token_id
    return Run(
        model=model,
        initial=initial,
        recipe=recipe,
        plan=plan(train_rows, recipe),
        rows=Rows(train_rows, pad),
        val_rows=Rows(val_rows, pad),
        folder=folder,
        autocast=None,
        on_cpu=loaded.model.device.type == "cpu",
        save_every=save_every,
        save=lambda state, target: methods.save(model, loaded, recipe, initial, state, target),
        watchers=tuple,
        track=track,
    )


def _write(run: Run, trained: Sequence[TrainedRate], best: TrainedRate, kept: methods.State, recorded: dict) -> None:
    run.save(kept, run.folder)
    if saved_steps(run, best.rate).exists():
        for checkpoint in saved_steps(run, best.rate).iterdir():
            shutil.move(checkpoint, run.folder / checkpoint.name)
    shutil.rmtree(run.folder / STATES)
    write_jsonl(run.folder / LOG, ({"rate": each.rate, **row} for each in trained for row in each.log))
    write_json(run.folder / RECORD, recorded)


def _record(loaded: LoadedModel, recipe: Recipe, sources: Sequence[Source], val: str | Path | None) -> dict:
    inputs = [{"role": "base", **loaded.checkpoint.identity}]
    inputs += [{**source_entry("data", source.path), "weight": source.weight} for source in sources]
    inputs += [source_entry("val", val)] if val is not None else []
    return record("finetune", {**asdict(recipe), "lr": list(recipe.rates), "dtype": dtype_name(loaded)}, inputs)


def _key(recorded: dict) -> str:
    """What tells an interrupted run from another one."""
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]


def _report(
    output: Path,
    run: Run,
    trained: Sequence[TrainedRate],
    best: TrainedRate,
    train_rows: Sequence[Example],
    val_rows: Sequence[Example],
) -> FinetuneReport:
    measured = [row["val_loss"] for row in best.log if row["val_loss"] is not None]
    before = measured[0] if measured else None
    warnings = [f"the loss became NaN or infinite at --lr {each.rate:g}" for each in trained if each.diverged]
    if before is not None and best.val_loss >= before:
        warnings.append("no step lowered the validation loss; lower --lr, or give more data")
    return FinetuneReport(
        output=str(output),
        method=run.recipe.method,
        lr=best.rate,
        step=best.step,
        steps=best.steps,
        rows_train=len(train_rows),
        rows_val=len(val_rows),
        tokens_per_row=sum(len(example.tokens) for example in train_rows) / len(train_rows),
        trained_parameters=sum(parameter.numel() for parameter in methods.trained_parameters(run.model).values()),
        train_loss=next(row["train_loss"] for row in best.log if row["step"] == best.step),
        val_loss_before=before,
        val_loss=best.val_loss,
        rates=tuple(
            {key: getattr(each, key) for key in ("rate", "step", "steps", "val_loss", "diverged")} for each in trained
        ),
        warnings=tuple(warnings),
    )
