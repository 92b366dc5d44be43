"""Fine-tune a base on chat answers and write the result: an adapter, a delta of biases, or a checkpoint."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.adapters.reading import MUTATING_INITS
from wsteer.deltas.inputs import open_change
from wsteer.deltas.trainings import SWEEP
from wsteer.errors import WsteerError
from wsteer.files.opening import check_streams, is_stream
from wsteer.files.provenance import RECORD, record, source_entry
from wsteer.files.rows import read_placed_chats
from wsteer.files.saving import check_output
from wsteer.files.shapes import Shape
from wsteer.files.text import write_json, write_jsonl
from wsteer.models.chat import TEMPLATE, Chat, ChatFormat
from wsteer.models.devices import resolve_device
from wsteer.models.loading import LoadedModel, check_rows, dtype_name, max_positions
from wsteer.models.rendering import marked_text
from wsteer.monitoring.items import listed
from wsteer.progress import Note, Progress, silent, unsaid
from wsteer.training import methods, processes
from wsteer.training.cpu import quick_on_cpu
from wsteer.training.curves import PICTURE, write_curves, write_sweep
from wsteer.training.memory import checkpoint_gradients, needs_checkpointing
from wsteer.training.processes import shared_folder
from wsteer.training.rates import STATES, Run, TrainedRate, saved_steps, train_rates
from wsteer.training.recipe import Recipe
from wsteer.training.reporting import Reporting, check_reporters
from wsteer.training.restoring import SharedBase, shared_base
from wsteer.training.rows import Chats, RunExamples, Source, parse_sources, run_examples
from wsteer.training.trainer import Examples, check_runs, plan

LOG = "log.jsonl"
Sets = tuple[list[Chats], Chats | None]  # for training, and for validation


@dataclass(frozen=True)
class FinetuneReport:
    """What `finetune` wrote; losses are means over the answers' tokens, in nats, None without validation rows.

    `lr` and `step` are the ones kept; `steps` were trained at that rate. `rates` lists every rate that was tried.
    `modules`, `blocks` and `share` tell what the method reaches: see `methods.Reach`.
    """

    output: str
    method: str
    lr: float
    step: int
    steps: int
    rows_train: int
    rows_val: int
    rows_cut: int
    rows_dropped: int
    tokens_per_row: float
    trained_parameters: int
    train_loss: float
    val_loss_before: float | None
    val_loss: float | None
    rates: tuple[dict, ...]
    warnings: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    blocks: tuple[int, ...] = ()
    share: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """The options of a run besides base, data and recipe; see `finetune`."""

    val: str | Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    load_in: str | None = None
    columns: Shape | None = None
    strip_system: bool = False
    max_length: int | None = None
    template: str | Path | None = None
    template_args: Mapping[str, object] | None = None
    date: str | None = None
    save_every: int | None = None
    watched: tuple[str | Path, ...] = ()
    report_to: tuple[str, ...] = ()

    @property
    def chat_format(self) -> ChatFormat:
        """How chats become text."""
        return ChatFormat(self.template, self.template_args, self.date)

    def shared_base(self, base: str | Path, recipe: Recipe) -> SharedBase:
        """The base for runs with these options."""
        return shared_base(base, recipe, self.device, self.dtype, self.load_in, self.chat_format)

    @property
    def recorded(self) -> dict[str, object]:
        """The ones that records list as options; `val`, `template` and `watched` are inputs."""
        names = ("load_in", "columns", "strip_system", "max_length", "save_every")
        return {**{name: getattr(self, name) for name in names}, **self.chat_format.recorded}

    def read(self, base: str | Path, sources: Sequence[Source]) -> list[str | Path]:
        """All files and folders that a run reads."""
        given = [self.val] if self.val is not None else []
        return [base, *(source.path for source in sources), *given, *self.chat_format.files, *self.watched]


def finetune(
    base: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    val: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    load_in: str | None = None,
    columns: Shape | None = None,
    strip_system: bool = False,
    max_length: int | None = None,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    save_every: int | None = None,
    watched: str | Path | Sequence[str | Path] = (),
    report_to: Sequence[str] = (),
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
    note: Note = unsaid,
) -> FinetuneReport:
    """Fine-tune `base` on the answers in `data`, one data set or several, and write the result with its log.

    `data` may have weights (`neg.jsonl:6`); `val` is a data set for validation, instead of a share of `data`. The loss
    is on each assistant turn's answer and the end of turn that follows it. `columns` name where rows have a chat, as
    `{"prompt": "question", "completion": "answer"}`. `strip_system` removes system turns, `max_length` cuts rows at so
    many tokens. `template` is a jinja file for a model without a chat template (or to replace its own), `template_args`
    are the template's arguments, `date` the day that it may write. `note` gets the first row with its trained tokens
    marked. Two runs with one seed start from the same initial A, so what pos and neg share cancels in their difference.

    `load_in` (4bit, 8bit) loads the base quantised. Every `save_every` steps the result so far is saved as
    `checkpoint-N`. At every validation the cosine of the change of weights with each of the `watched` deltas is logged,
    and reported with the losses to what `report_to` names (tensorboard, wandb). With `resume`, an interrupted run
    continues where it stopped and ends with the bytes of an uninterrupted run.
    """
    recipe = recipe or Recipe()
    options = RunOptions(
        val,
        device,
        dtype,
        load_in,
        columns,
        strip_system,
        max_length,
        template,
        template_args,
        date,
        save_every,
        tuple(listed(watched)),
        tuple(report_to),
    )
    shared = options.shared_base(base, recipe)
    return finetune_once(
        shared, base, parse_sources(data), Path(output), recipe, options, resume, force, progress, note
    )


def finetune_once(
    shared: SharedBase,
    base: str | Path,
    sources: Sequence[Source],
    output: Path,
    recipe: Recipe,
    options: RunOptions,
    resume: bool,
    force: bool,
    progress: Progress,
    note: Note,
    chats: Sets | None = None,
    title: str = "",
) -> FinetuneReport:
    """One run of `finetune` on a `shared` base, with parsed data sets and with its options in one object.

    `chats` are the data sets if they were read before: a pipe can be read once. `title` is the run's name for reporters
    if it is not the output's.
    """
    check_output(output, force, folder=True, inputs=options.read(base, sources), resume=resume)
    check_options(recipe, options)
    sets = chats or read_sets(sources, options)
    with shared.lent() as loaded:
        examples = checked_examples(loaded, sources, sets, recipe, options)
        if not processes.is_sharded():  # else the whole model is on the CPU for now
            check_runs(loaded)
        marked = marked_text(loaded.tokenizer, examples.first)
        note(f"the first row, the trained tokens between \u27e6 and \u27e7: {marked}")
        record = loaded_record(loaded, recipe, sources, options)
        reporting = Reporting(options.watched, options.report_to, loaded.checkpoint, title or output.name)
        with shared_folder(output, force, record, resume) as partial:
            run = _run(base, loaded, recipe, options, examples, partial, reporting, progress)
            with quick_on_cpu(loaded.model, options.dtype, examples.longest):
                trained, best, kept = train_rates(run)
            if processes.is_first():
                _write(run, trained, best, kept, {**record, "rows_train": len(examples.train)})
                if options.template is not None:
                    (partial / TEMPLATE).write_text(loaded.chat.template, encoding="utf-8")
        return _report(output, run, trained, best, examples, loaded.chat)


def checked_examples(
    loaded: LoadedModel, sources: Sequence[Source], sets: Sets, recipe: Recipe, options: RunOptions
) -> RunExamples:
    """The run's data as token ids; a WsteerError if the model cannot read a row, or if no row is left to validate."""
    weights = [source.weight for source in sources]
    examples = run_examples(loaded.chat, sets[0], weights, sets[1], recipe, options.max_length, max_positions(loaded))
    check_rows(loaded, (example.tokens for example in [*examples.train, *examples.val]))
    if len(recipe.rates) > 1 and not examples.val:
        raise WsteerError(
            "several --lr are compared by their validation loss, and no row is left for it; give more rows, or --val"
        )
    return examples


def read_sets(sources: Sequence[Source], options: RunOptions) -> Sets:
    """The chats of each data set, and those that validate."""
    given = [*(source.path for source in sources), str(options.val or "")]
    check_streams(given)
    if processes.count() > 1 and any(map(is_stream, given)):
        raise WsteerError("several processes cannot share a pipe as data; write it to a file")
    how = options.strip_system, options.columns
    sets = [read_placed_chats(source.path, *how) for source in sources]
    return sets, read_placed_chats(options.val, *how) if options.val is not None else None


def run_record(
    base: Checkpoint, recipe: Recipe, sources: Sequence[Source], options: RunOptions, dtype: str, **changed: object
) -> dict:
    """The record of a run in the type `dtype`; the options `changed` replace the recipe's.

    It also identifies an interrupted run, so it must hold everything that determines the result.
    """
    inputs = [base.input_entry("base")]
    inputs += [{**source_entry("data", source.path), "weight": source.weight} for source in sources]
    inputs += [source_entry("val", options.val)] if options.val is not None else []
    inputs += options.chat_format.inputs
    inputs += [open_change(path, "watched", base).source for path in options.watched]
    resolved = {**recipe.recorded, **options.recorded, "dtype": dtype, **changed}
    return record("finetune", resolved, inputs)


def loaded_record(loaded: LoadedModel, recipe: Recipe, sources: Sequence[Source], options: RunOptions) -> dict:
    """The record of a run on a loaded base."""
    return run_record(loaded.checkpoint, recipe, sources, options, dtype_name(loaded), **loaded.chat.recorded)


def check_options(recipe: Recipe, options: RunOptions) -> None:
    """The checks that need neither data nor model."""
    load_in = options.load_in
    processes.check()
    check_reporters(options.report_to)
    if options.save_every is not None and options.save_every < 1:
        raise WsteerError(f"--save-every {options.save_every}: a number of steps from 1 up is needed")
    if options.max_length is not None and options.max_length < 2:
        raise WsteerError(f"--max-length {options.max_length}: a number of tokens from 2 up is needed")
    if len(recipe.rates) > 1 and options.val is None and not recipe.val_fraction:
        raise WsteerError("several --lr are compared by their validation loss; give --val or a --val-fraction above 0")
    if len(recipe.rates) > 1 and processes.is_sharded():
        raise WsteerError("--lr: where the model is spread over processes (FSDP) one rate at a time can be trained")
    if load_in and recipe.method != "lora":
        raise WsteerError(f"--load-in {load_in} leaves LoRA alone to train; leave out --method {recipe.method}")
    if recipe.layer_slice is not None and recipe.method == "full" and processes.is_sharded():
        raise WsteerError("--layer-slice and --method full: not where the model is spread over processes (FSDP)")
    if load_in and processes.is_sharded():
        raise WsteerError(f"--load-in {load_in} keeps the base whole on each device; leave out FSDP or --load-in")
    if load_in and recipe.init in MUTATING_INITS:
        raise WsteerError(f"--load-in {load_in} and --init {recipe.init}: a quantised base cannot be changed by it")


def _run(
    base: str | Path,
    loaded: LoadedModel,
    recipe: Recipe,
    options: RunOptions,
    examples: RunExamples,
    folder: Path,
    reporting: Reporting,
    progress: Progress,
) -> Run:
    weights = methods.block_weights(loaded)
    model = methods.prepare(loaded, base, recipe)
    needed = len(recipe.rates) > 1 or recipe.method == "bias" or recipe.init in MUTATING_INITS
    initial = methods.copied_state(model) if needed else {}
    pad = loaded.tokenizer.pad_token_id
    steps = plan(examples.train, recipe)
    device = resolve_device(options.device)
    autocast = _autocast(loaded, device, options.dtype)
    checkpointing = recipe.gradient_checkpointing
    if checkpointing is None and not processes.is_sharded():  # else accelerate's config decides
        checkpointing = needs_checkpointing(model, steps.micro_size * examples.longest, autocast)
    if checkpointing:
        checkpoint_gradients(loaded.model)
    return Run(
        model=model,
        initial=initial,
        recipe=recipe,
        plan=steps,
        train=Examples(examples.train, pad),
        val=Examples(examples.val, pad),
        folder=folder,
        autocast=autocast,
        on_cpu=device == "cpu",
        save_every=options.save_every,
        save=lambda state, target: methods.save(model, loaded, recipe, initial, state, target),
        reporting=reporting,
        reach=methods.reach(model, loaded, weights),
        progress=progress,
    )


def _autocast(loaded: LoadedModel, device: str, dtype: str) -> torch.dtype | None:
    """The 16-bit type that products are computed in, None for the model's own.

    A 16-bit model needs it, since the trained parameters are float32. If `dtype` is auto, a float32 model on a CUDA
    device with bfloat16 uses it too.
    """
    if loaded.model.dtype is torch.float16 and device != "cuda":
        raise WsteerError(f"--dtype float16 cannot be trained on {device}; use bfloat16 or float32")
    if loaded.model.dtype in (torch.bfloat16, torch.float16):
        return loaded.model.dtype
    capable = dtype == "auto" and device == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if capable else None


def _write(run: Run, trained: Sequence[TrainedRate], best: TrainedRate, kept: methods.State, record: dict) -> None:
    run.save(kept, run.folder)
    if saved_steps(run, best.rate).exists():
        for checkpoint in saved_steps(run, best.rate).iterdir():
            shutil.move(checkpoint, run.folder / checkpoint.name)
    write_jsonl(run.folder / LOG, ({"rate": each.rate, **row} for each in trained for row in each.log))
    write_sweep(run.folder / SWEEP, trained, best)
    write_curves(run.folder / PICTURE, trained, best)
    write_json(run.folder / RECORD, record)
    shutil.rmtree(run.folder / STATES)  # last: until here a failure can go on from them


def _report(
    output: Path, run: Run, trained: Sequence[TrainedRate], best: TrainedRate, examples: RunExamples, chat: Chat
) -> FinetuneReport:
    measured = [row["val_loss"] for row in best.log if row["val_loss"] is not None]
    before = measured[0] if measured else None
    warnings = [f"the loss became NaN or infinite at --lr {each.rate:g}" for each in trained if each.diverged]
    if not chat.ends:
        warnings.append(
            f"{chat.name} names no token that ends an answer, neither eos_token in tokenizer_config.json nor "
            "eos_token_id in generation_config.json, so that the model will not learn to stop after its answer; name "
            "one there"
        )
    elif examples.endless:
        warnings.append(
            f"the chat template leaves no end to train in {examples.endless} rows, so that the model will not learn to "
            "stop after its answer; give one that ends or marks it by the model's end token with --template FILE"
        )
    if before is not None and best.val_loss is not None and best.val_loss >= before:
        warnings.append("no step lowered the validation loss; lower --lr, or give more data")
    return FinetuneReport(
        output=str(output),
        method=run.recipe.method,
        lr=best.rate,
        step=best.step,
        steps=best.steps,
        rows_train=len(examples.train),
        rows_val=len(examples.val),
        rows_cut=examples.cut,
        rows_dropped=examples.dropped,
        tokens_per_row=sum(len(example.tokens) for example in examples.train) / len(examples.train),
        trained_parameters=sum(parameter.numel() for parameter in methods.trained_parameters(run.model).values()),
        train_loss=next(row["train_loss"] for row in best.log if row["step"] == best.step),
        val_loss_before=before,
        val_loss=best.val_loss,
        rates=tuple(
            {key: getattr(each, key) for key in ("rate", "step", "steps", "val_loss", "diverged")} for each in trained
        ),
        warnings=tuple(warnings),
        **vars(run.reach),
    )
