"""transformers' Trainer as wsteer uses it: its own batches, an exact validation loss, saved states to resume from."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from wsteer.errors import WsteerError, reason
from wsteer.models.batches import batches
from wsteer.models.loading import LoadedModel, running
from wsteer.models.rendering import Example
from wsteer.training import processes
from wsteer.training.callbacks import BestStep
from wsteer.training.methods import State, copied_state, restore_state, trained_parameters
from wsteer.training.recipe import Recipe
from wsteer.training.steps import BLANK, blank, collate, micro_batches, run_batches

STATE = "trained.safetensors"  # the trained parameters in a state to resume from


class Examples(Dataset):
    """Examples by index; the one at `BLANK` trains nothing."""

    def __init__(self, examples: Sequence[Example], pad: int) -> None:
        self.examples = examples
        self.pad = pad
        self.blank = blank(pad)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.blank if index == BLANK else self.examples[index]


@dataclass(frozen=True)
class Plan:
    """The micro-batches of a run's steps, in order; a step has `accumulation` of them for each process."""

    micro: tuple[list[int], ...]
    steps: int
    accumulation: int
    micro_size: int


def plan(examples: Sequence[Example], recipe: Recipe) -> Plan:
    """The run's steps in micro-batches; the rows of a step do not depend on the number of processes."""
    shares = processes.count()
    size = recipe.micro_batch_size or max(recipe.batch_size // shares, 1)
    if recipe.batch_size % (size * shares):
        raise WsteerError(
            f"--batch-size {recipe.batch_size} is no multiple of {shares} processes x --micro-batch-size {size}; "
            "change one of the three"
        )
    lengths = [len(example.tokens) for example in examples]
    steps = run_batches(lengths, recipe.batch_size, recipe.epochs, recipe.max_steps, recipe.seed)
    count = recipe.batch_size // size
    if shares == 1:  # no more micro-batches than the steps fill
        count = max(-(-len(step) // size) for step in steps)
    parts = [part for step in steps for part in micro_batches(step, size, count)]
    return Plan(tuple(parts), len(steps), count // shares, size)


class AnswerTrainer(Trainer):
    """The Trainer on examples, in the order of a `Plan`; the validation loss is the mean over all trained tokens."""

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        plan: Plan,
        train: Examples,
        val: Examples,
        patience: int,
    ) -> None:
        if arguments.n_gpu > 1:  # one GPU without torchrun: DataParallel would split labels, which are not rows
            arguments._n_gpu = 1
        super().__init__(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=val if len(val) else None,
        )
        self.remove_callback(transformers.PrinterCallback)  # it prints to stdout
        self.plan = plan
        self.keeps_logits = keeps_logits(model)
        self.model_accepts_loss_kwargs = True  # the trained tokens of a step are counted for compute_loss
        self.train_examples = train
        self.val_examples = val
        self.names = list(trained_parameters(model))
        self.best = BestStep(self.trained_state, patience)
        self.add_callback(self.best)

    @property
    def trained(self) -> nn.Module:
        """The model, as it was given or as the Trainer has replaced it."""
        if self.model is None:
            raise AssertionError("the Trainer has lost its model")
        return self.model

    def get_train_dataloader(self) -> DataLoader:
        """This process's micro-batches of the whole run, in one pass."""
        mine = self.plan.micro[processes.number() :: processes.count()]
        return DataLoader(self.train_examples, batch_sampler=list(mine), collate_fn=self._collated)

    @torch.no_grad()
    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """The mean loss over the validation rows' trained tokens, which does not depend on batches and processes."""
        lengths = [len(example.tokens) for example in self.val_examples.examples]
        parts = list(batches(lengths, self.plan.micro_size))
        parts += [[BLANK]] * (-len(parts) % processes.count())
        model = self.model_wrapped if self.is_fsdp_enabled else self.trained
        model.eval()
        total, tokens = 0.0, 0.0
        for part in parts[processes.number() :: processes.count()]:
            batch = self._prepare_inputs(self._collated([self.val_examples[index] for index in part]))
            count = batch["labels"].numel()
            loss = cast(Tensor, self.compute_loss(model, batch))
            if count:  # the mean of no tokens is NaN
                total, tokens = total + loss.item() * count, tokens + count
        total, tokens = processes.summed([total, tokens], self.args.device)
        metrics = {"eval_loss": total / tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """The cross-entropy of the trained tokens: not the model's own loss, which some compute in their own way."""
        kept, labels = inputs["logits_to_keep"], inputs["labels"]
        given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        if self.keeps_logits:  # others compute logits of every token
            outputs = model(**given, logits_to_keep=kept)
            logits = outputs.logits.flatten(0, -2)
        else:
            outputs = model(**given)
            logits = outputs.logits[kept]
        loss = nn.functional.cross_entropy(logits.float(), labels.long(), reduction="sum")
        if num_items_in_batch is not None:  # of all processes, whose gradients are averaged
            loss = loss * processes.count()
        loss = loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def trained_state(self) -> State:
        """A copy of the trained parameters, gathered if they are spread over processes."""
        if not self.is_fsdp_enabled:
            return copied_state(self.trained)
        everything = self.accelerator.get_state_dict(self.model)
        return {name: everything[name].float().cpu() for name in self.names} if processes.is_first() else {}

    def _collated(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return collate(examples, self.train_examples.pad)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            save_file(copied_state(self.trained), folder / STATE)
            self.best.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with sound_state(resume_from_checkpoint):
            restore_state(self.trained, load_file(Path(resume_from_checkpoint) / STATE))
            self.best.load(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with sound_state(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with sound_state(checkpoint):
            super()._load_rng_state(checkpoint)


def check_runs(loaded: LoadedModel) -> None:
    """Run the model as training does, on a row of two tokens; a WsteerError if it cannot, as one that needs images."""
    row = torch.zeros(1, 2, dtype=torch.int64, device=loaded.model.device)
    given = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if keeps_logits(loaded.model):
        given["logits_to_keep"] = given["attention_mask"].bool()
    with running(loaded):
        loaded.model(**given)


def keeps_logits(model: nn.Module) -> bool:
    """Whether the model, or the one inside of an adapter, computes logits of chosen tokens alone."""
    inner = cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


@contextlib.contextmanager
def sound_state(state: str | Path | None) -> Iterator[None]:
    """Turn whatever a damaged state raises while it is read into one line."""
    try:
        yield
    except Exception as error:
        raise WsteerError(
            f"the saved state {state} is damaged ({reason(error)}); remove it, or drop all with --force"
        ) from error


def training_arguments(
    recipe: Recipe,
    rate: float,
    plan: Plan,
    folder: Path,
    *,
    validated: bool,
    resumed: bool,
    autocast: torch.dtype | None,
    cpu: bool,
) -> TrainingArguments:
    """The recipe as the Trainer's arguments; `folder` holds the states to resume from."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        optim="adamw_torch",
        weight_decay=recipe.weight_decay,
        max_steps=plan.steps,
        per_device_train_batch_size=plan.micro_size,
        gradient_accumulation_steps=plan.accumulation,
        eval_strategy="steps" if validated else "no",
        eval_steps=recipe.eval_every,
        eval_on_start=validated and not resumed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a run that diverges must be noticed
        save_strategy="no",
        save_total_limit=1,
        report_to="none",
        seed=recipe.seed,
        use_cpu=cpu,
        bf16=autocast is torch.bfloat16,
        fp16=autocast is torch.float16,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        prediction_loss_only=True,
        label_names=["labels"],
    )
    if autocast is None:  # else the environment decides, which `accelerate launch` sets, and the record would be wrong
        arguments.mixed_precision = "no"
    return arguments
