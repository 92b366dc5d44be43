"""What callbacks of a transformers Trainer share: at which steps they measure, and where it is logged."""

from typing import Any, TypeVar

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wsteer.errors import WsteerError

Own = TypeVar("Own", bound="Measuring")


class Measuring(TrainerCallback):
    """Measures the running model every `every` steps, by default at every log of the Trainer, and adds to the log.

    A subclass gives `metrics`. On several processes the main one measures.
    """

    def __init__(self, every: int | None) -> None:
        if every is not None and every < 1:
            raise WsteerError(f"every={every}: a number of steps from 1 up is needed")
        self.every = every
        self._measured: int | None = None

    def metrics(self, step: int, model: nn.Module) -> dict[str, float]:
        """What is added to the log of this step, by name; empty if there is nothing to measure."""
        raise NotImplementedError

    def attach(self: Own, trainer: Trainer) -> Own:
        """Add the callback to a Trainer before its reporting callbacks, so that they report what it finds too."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

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
