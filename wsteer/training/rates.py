"""The rates of a sweep, trained one by one on one model, and the choice among them."""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME

from wsteer.errors import WsteerError
from wsteer.files.saving import mark_work
from wsteer.files.text import read_json, write_jsonl
from wsteer.progress import Progress
from wsteer.training import processes
from wsteer.training.callbacks import Interruption, SavedSteps, ShownSteps
from wsteer.training.log import merge_log
from wsteer.training.methods import Reach, State, restore_state
from wsteer.training.recipe import Recipe
from wsteer.training.reporting import Reporting
from wsteer.training.trainer import AnswerTrainer, Examples, Plan, sound_state, training_arguments

STATES = "states"  # what `--resume` continues from; a finished output does not have it
FINISHED, KEPT = "finished.json", "kept.safetensors"


@dataclass(frozen=True)
class Run:
    """What the rates of a sweep have in common. `save` writes a state as the method's files."""

    model: nn.Module
    initial: State
    recipe: Recipe
    plan: Plan
    train: Examples
    val: Examples
    folder: Path
    autocast: torch.dtype | None
    on_cpu: bool
    save_every: int | None
    reporting: Reporting
    reach: Reach
    save: Callable[[State, Path], None]
    progress: Progress


@dataclass(frozen=True)
class TrainedRate:
    """One rate's training: its log, and the step chosen in it. `val_loss` is None without validation rows."""

    rate: float
    steps: int
    step: int
    val_loss: float | None
    diverged: bool
    log: list[dict] = field(repr=False)


def train_rates(run: Run) -> tuple[list[TrainedRate], TrainedRate, State]:
    """Train every rate from the same start. Returns all, the one with the lowest validation loss, and its parameters.

    Rates that an interrupted run has finished are read from its files. Raises WsteerError if every rate diverged.
    """
    trained: list[TrainedRate] = []
    best: TrainedRate | None = None
    kept: State | None = None
    for rate in run.recipe.rates:
        states = run.folder / STATES / rate_name(rate)
        finished = (states / FINISHED).exists()
        processes.wait()  # all must look before the first process writes
        state: State | None = None
        if finished:
            with sound_state(states / FINISHED):
                result = TrainedRate(**read_json(states / FINISHED))
        else:
            result, state = _train(run, rate, states)
        trained.append(result)
        if not result.diverged and _is_better(result, best):
            best, kept = result, state
        if not finished and len(run.recipe.rates) > 1 and processes.is_first():
            _finish(run, result, state if best is result else None, states)
    if best is None:
        raise WsteerError("the loss became NaN or infinite; lower --lr or --alpha")
    if kept is None:  # trained before an interruption
        place = run.folder / STATES / rate_name(best.rate) / KEPT
        with sound_state(place):
            kept = load_file(place)
    return trained, best, kept


def _is_better(result: TrainedRate, best: TrainedRate | None) -> bool:
    """Whether a rate is the best so far; rates are compared by their validation loss."""
    if best is None:
        return True
    if result.val_loss is None or best.val_loss is None:
        raise AssertionError("several rates cannot be compared without validation rows")
    return result.val_loss < best.val_loss


def rate_name(rate: float) -> str:
    """The name of a rate's folder: `lr-0.0001`."""
    return f"lr-{rate:g}"


def saved_steps(run: Run, rate: float) -> Path:
    """The folder of a rate's `checkpoint-N` folders until one rate is chosen."""
    return run.folder / STATES / "saved" / rate_name(rate)


def _train(run: Run, rate: float, states: Path) -> tuple[TrainedRate, State]:
    resumed = _last_state(states)
    if resumed is None and run.initial:
        restore_state(run.model, run.initial)
    arguments = training_arguments(
        run.recipe,
        rate,
        run.plan,
        states,
        validated=len(run.val) > 0,
        resumed=resumed is not None,
        autocast=run.autocast,
        cpu=run.on_cpu,
    )
    trainer = AnswerTrainer(run.model, arguments, run.plan, run.train, run.val, run.recipe.patience)
    label = "train" if len(run.recipe.rates) == 1 else f"train {rate_name(rate)}"
    trainer.add_callback(ShownSteps(run.progress, label))
    if run.save_every:
        trainer.add_callback(SavedSteps(run.save_every, trainer.trained_state, run.save, saved_steps(run, rate)))
    run.reporting.attach(trainer, rate_name(rate), run.recipe.eval_every)
    with Interruption(not processes.is_sharded(), lambda: mark_work(run.folder)) as interruption:
        trainer.add_callback(interruption)
        trainer.train(resume_from_checkpoint=resumed)
    run.model.__dict__.pop("forward", None)  # accelerate wraps it in autocast, once for every Trainer
    if interruption.signalled:
        step = f"step {trainer.state.global_step} of {run.plan.steps}"
        raise KeyboardInterrupt(f"interrupted at {step}")
    log = merge_log(trainer.state.log_history)
    best = trainer.best
    return TrainedRate(rate, log[-1]["step"], best.step, best.loss, best.diverged, log), best.kept


def _last_state(states: Path) -> str | None:
    """The latest complete state to resume from: a run may be killed while it writes one."""
    found = []
    for folder in states.glob("checkpoint-*"):
        with contextlib.suppress(WsteerError, KeyError, TypeError, ValueError):
            found.append((int(read_json(folder / TRAINER_STATE_NAME)["global_step"]), str(folder)))  # written last
    return max(found)[1] if found else None


def _finish(run: Run, result: TrainedRate, state: State | None, states: Path) -> None:
    """Save a finished rate's result; of all rates only the best one's parameters are kept."""
    states.mkdir(parents=True, exist_ok=True)
    if state is not None:
        save_file(state, states / KEPT)
    # keys in the order of log.jsonl; whole or not at all
    write_jsonl(states / f"{FINISHED}.part", [asdict(result)])
    os.replace(states / f"{FINISHED}.part", states / FINISHED)
    mark_work(run.folder)
    for path in states.glob("checkpoint-*"):
        shutil.rmtree(path)
    for path in states.parent.glob(f"*/{KEPT}") if state is not None else ():
        if path.parent != states:
            path.unlink()
