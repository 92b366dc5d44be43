"""What callbacks of a transformers Trainer share: at which steps they measure, and where it is logged."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.items import check_named_once, listed, short_names

Own = TypeVar("Own", bound="Measuring")


class Measuring(TrainerCallback):
    """Measures the running model every `every` steps, by default at every log of the Trainer, and adds to the log.

    A subclass gives `start` and `metrics`. On several processes the main one measures.
    """

    def __init__(self, every: int | None) -> None:
        if every is not None and every < 1:
            raise WsteerError(f"every={every}: a number of steps from 1 up is needed")
        self.every = every
        self._measured: int | None = None

    def metrics(self, step: int, model: nn.Module) -> dict[str, float]:
        """What is added to the log of this step, by name; empty if there is nothing to measure."""
        raise NotImplementedError

    def start(self, model: nn.Module) -> None:
        """Keep what later measurements are compared with."""
        raise NotImplementedError

    def attach(self: Own, trainer: Trainer) -> Own:
        """Add the callback to a Trainer before its reporting callbacks, so that they report what it finds too."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let `start` see the model before the first step. Raises WsteerError if no process has all of it."""
        _check_whole(kwargs["model"], args)
        if state.is_world_process_zero:
            self.start(kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a log at the steps where a measurement is due."""
        if self.every is not None and state.global_step % self.every == 0:
            control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what is found to the log of this step, once."""
        step = state.global_step
        due = step > 0 and (self.every is None or step % self.every == 0)
        if not due or step == self._measured or not state.is_world_process_zero:
            return
        if metrics := self.metrics(step, kwargs["model"]):
            self._measured = step
            state.log_history[-1].update(metrics)
            if kwargs.get("logs") is not None:
                kwargs["logs"].update(metrics)


def by_name(
    deltas: str | Path | Sequence[str | Path] | Mapping[str, Delta], opened: Callable[[str | Path], Delta]
) -> dict[str, Delta]:
    """The deltas that a callback is given, by name; of paths, their short names."""
    if not deltas:
        raise WsteerError("a callback needs one delta or more to measure along")
    if isinstance(deltas, Mapping):
        return dict(deltas)
    paths = listed(deltas)
    check_named_once(paths, "delta")
    return {name: opened(path) for name, path in zip(short_names([str(path) for path in paths]), paths, strict=True)}


def _check_whole(model: nn.Module, args: TrainingArguments) -> None:
    """Refuse a model whose weights are spread over processes, since one process alone cannot measure it."""
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    # parameters of DeepSpeed's ZeRO-3, and of FSDP2
    spread = any(hasattr(each, "ds_id") or hasattr(each, "device_mesh") for each in model.parameters())
    if args.fsdp or sharded or spread:
        raise WsteerError(
            "the callback needs the whole model on the main process, and FSDP or ZeRO-3 spreads it; measure the "
            "checkpoints with wsteer monitor --watch"
        )
