"""LoRA fine-tuning on chat answers: the paper's recipe, run by transformers' Trainer and peft."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from wsteer.batching import collate
from wsteer.checkpoint import hub_name
from wsteer.data import read_rows
from wsteer.errors import WsteerError
from wsteer.models import LoadedModel, dtype_name, load, positions
from wsteer.progress import Note, Track, silent, unsaid
from wsteer.rendering import Example, Rendered, read_template, render_rows, shown
from wsteer.saving import RECORD, check_output, new_folder, record, source_entry, write_json, write_jsonl

LOG = "log.jsonl"
TEMPLATE = "chat_template.jinja"  # as transformers names it


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune. The defaults are the paper's (section 3): AdamW, linear decay, LoRA on all linear layers."""

    lr: float = 1e-5
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    rank: int = 32
    alpha: float = 16.0
    weight_decay: float = 0.01
    warmup_steps: int = 5
    val_fraction: float = 0.05
    eval_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise WsteerError(f"--epochs {self.epochs:g}: a number above 0 is needed")
        if not 0 <= self.val_fraction < 1:
            raise WsteerError(f"--val-fraction {self.val_fraction:g}: a fraction from 0 to below 1 is needed")


@dataclass(frozen=True)
class FinetuneReport:
    """What `finetune` wrote; losses are means over the answers' tokens, in nats, None without validation rows."""

    output: str
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


def finetune(
    base: str | Path,
    data: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    strip_system: bool = False,
    max_length: int | None = None,
    template: str | Path | None = None,
    force: bool = False,
    track: Track = silent,
    note: Note = unsaid,
) -> FinetuneReport:
    """Fine-tune `base` on the answers in `data` and write a PEFT adapter folder with its `log.jsonl`.

    The loss is on each assistant turn's answer and the end of turn that follows it. `strip_system` leaves system turns
    out, `max_length` cuts rows at so many tokens, `template` is a jinja file for a model without a chat template (or in
    place of its own). `note` is told what the first row looks like with its trained tokens marked. Two runs with one
    seed start from the same initial A, so that what pos and neg share cancels in their difference.
    """
    recipe = recipe or Recipe()
    output = Path(output)
    check_output(output, force, folder=True, inputs=[base, data])
    rows = read_rows(data, strip_system)
    chat_template = read_template(template) if template else None
    loaded = load(base, device, dtype)
    if chat_template:
        loaded.tokenizer.chat_template = chat_template
    rendered = render_rows(loaded.tokenizer, rows, max_length, positions(loaded))
    note(
        f"the first row, the trained tokens between \u27e6 and \u27e7:\n{shown(loaded.tokenizer, rendered.examples[0])}"
    )
    train_rows, val_rows = split_rows(rendered.examples, recipe.val_fraction, recipe.seed)
    inputs = [{"role": "base", **loaded.checkpoint.identity}, source_entry("data", data)]
    inputs += [source_entry("template", template)] if template else []
    options = {**asdict(recipe), "dtype": dtype_name(loaded), "strip_system": strip_system, "max_length": max_length}
    with new_folder(output, force) as partial:
        model = _with_lora(loaded, base, recipe)
        trainer = _trainer(model, loaded, recipe, train_rows, val_rows, partial, track)
        trainer.train()
        log = merge_log(trainer.state.log_history)
        if not all(math.isfinite(row["train_loss"] or 0) and math.isfinite(row["val_loss"] or 0) for row in log):
            raise WsteerError("the loss became NaN or infinite; lower --lr or --alpha")
        model.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)  # peft's model card is a form with nothing filled in
        if chat_template:
            (partial / TEMPLATE).write_text(chat_template, encoding="utf-8")
        write_jsonl(partial / LOG, log)
        write_json(partial / RECORD, record("finetune", options, inputs))
    return _report(output, model, log, train_rows, val_rows, rendered)


def split_rows(examples: Sequence[Example], val_fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and validation rows, chosen by the seed: at least one of each where there are two rows or more."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    count = min(max(round(val_fraction * len(order)), 1 if val_fraction else 0), len(order) - 1)
    return [examples[i] for i in sorted(order[count:])], [examples[i] for i in sorted(order[:count])]


def _with_lora(loaded: LoadedModel, base: str | Path, recipe: Recipe) -> PeftModel:
    transformers.set_seed(recipe.seed)  # fixes the initial A
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        revision=loaded.checkpoint.revision,
    )
    model = get_peft_model(loaded.model, config)
    # not the cache folder that a Hub model was loaded from
    model.peft_config["default"].base_model_name_or_path = hub_name(base) or str(base)
    # peft keeps a set, whose order differs from run to run
    model.peft_config["default"].target_modules = sorted(model.peft_config["default"].target_modules)
    return model


def _trainer(
    model: PeftModel,
    loaded: LoadedModel,
    recipe: Recipe,
    train_rows: list[Example],
    val_rows: list[Example],
    folder: Path,
    track: Track,
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=recipe.lr,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        optim="adamw_torch",
        weight_decay=recipe.weight_decay,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        eval_strategy="steps" if val_rows else "no",
        eval_steps=recipe.eval_every,
        eval_on_start=bool(val_rows),
        logging_steps=1,
        logging_nan_inf_filter=False,  # a run that diverges must be seen
        save_strategy="no",
        report_to="none",
        seed=recipe.seed,
        use_cpu=loaded.model.device.type == "cpu",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        prediction_loss_only=True,
        label_names=["labels"],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=val_rows or None,
        data_collator=lambda rows: collate(rows, loaded.tokenizer.pad_token_id),
        callbacks=[_ShownSteps(track)],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # its dicts would go to stdout
    return trainer


class _ShownSteps(TrainerCallback):
    """Advances the progress by one item a training step."""

    def __init__(self, track: Track):
        self.track = track

    def on_train_begin(self, args: TrainingArguments, state, control, **kwargs) -> None:
        self.steps = iter(self.track(range(state.max_steps + 1), "train", state.max_steps))
        next(self.steps)

    def on_step_end(self, args: TrainingArguments, state, control, **kwargs) -> None:
        next(self.steps, None)

    def on_train_end(self, args: TrainingArguments, state, control, **kwargs) -> None:
        next(self.steps, None)


def merge_log(history: Sequence[dict]) -> list[dict]:
    """The Trainer's log as one row a step: step, lr, train_loss and, where it was measured, val_loss."""
    rows: dict[int, dict] = {}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"], "lr": None, "train_loss": None, "val_loss": None})
        if "loss" in entry:
            row.update(train_loss=entry["loss"], lr=entry["learning_rate"])
        if "eval_loss" in entry:
            row["val_loss"] = entry["eval_loss"]
    return [rows[step] for step in sorted(rows)]


def _report(
    output: Path,
    model: PeftModel,
    log: list[dict],
    train_rows: list[Example],
    val_rows: list[Example],
    rendered: Rendered,
) -> FinetuneReport:
    measured = [row["val_loss"] for row in log if row["val_loss"] is not None]
    tokens = sum(len(example.tokens) for example in train_rows)
    return FinetuneReport(
        output=str(output),
        steps=log[-1]["step"],
        rows_train=len(train_rows),
        rows_val=len(val_rows),
        rows_cut=rendered.cut,
        rows_dropped=rendered.dropped,
        tokens_per_row=tokens / len(train_rows),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        train_loss=log[-1]["train_loss"],
        val_loss_before=measured[0] if measured else None,
        val_loss=measured[-1] if measured else None,
    )
