"""What happens between steps: progress, the choice of the best step, saved checkpoints, interruption."""

import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wsteer.files.flushing import flush_folder
from wsteer.files.text import read_json, write_json
from wsteer.progress import Progress
from wsteer.training import processes
from wsteer.training.methods import State

BEST, CHOICE = "best.safetensors", "best.json"
BOUNCE = 1.0  # seconds in which a second signal is taken for the first one again, as a wrapper passes it on
STATE_SECONDS = 300  # the most work, about, that a killed run loses


class ShownSteps(TrainerCallback):
    """Advances the progress by one item per training step."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress = progress
        self.label = label

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        left = state.max_steps - state.global_step
        self.steps = iter(self.progress(range(left + 1), self.label, left))
        next(self.steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        next(self.steps, None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for _ in self.steps:
            pass


class BestStep(TrainerCallback):
    """Keeps the trained parameters of the step with the lowest validation loss; ends a rate that stalls or diverges.

    Step 0, where nothing is trained yet, is never chosen. Without validation the last step is chosen.
    """

    def __init__(self, current: Callable[[], State], patience: int) -> None:
        self.current = current
        self.patience = patience
        self.step = 0
        self.loss: float | None = None
        self.kept: State = {}
        self.since = 0
        self.diverged = False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        losses = [logs[key] for key in ("loss", "eval_loss") if key in logs]
        self.diverged = self.diverged or not all(map(math.isfinite, losses))
        control.should_training_stop = control.should_training_stop or self.diverged

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = kwargs["metrics"]["eval_loss"]
        if state.global_step == 0 or self.diverged:
            return
        if self.loss is None or loss < self.loss:
            self.step, self.loss, self.kept, self.since = state.global_step, loss, self.current(), 0
        else:
            self.since += 1
            control.should_training_stop = control.should_training_stop or self.since == self.patience

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.loss is None:
            self.step, self.kept = state.global_step, self.current()

    def save(self, folder: Path) -> None:
        """Write the choice so far."""
        if self.kept:
            save_file(self.kept, folder / BEST)
        write_json(folder / CHOICE, {"step": self.step, "loss": self.loss, "since": self.since})

    def load(self, folder: Path) -> None:
        """Restore the choice that `save` wrote."""
        choice = read_json(folder / CHOICE)
        self.step, self.loss, self.since = choice["step"], choice["loss"], choice["since"]
        self.kept = load_file(folder / BEST) if (folder / BEST).exists() else {}


class SavedSteps(TrainerCallback):
    """Saves the trained parameters every `every` steps, in `checkpoint-N/` folders."""

    def __init__(
        self, every: int, current: Callable[[], State], save: Callable[[State, Path], None], folder: Path
    ) -> None:
        self.every = every
        self.current = current
        self.save = save
        self.folder = folder

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            current = self.current()  # called in all processes: each may hold a part
            if processes.is_first():
                self.save(current, self.folder / f"checkpoint-{state.global_step}")


class Interruption(TrainerCallback):
    """Saves a state for `--resume` every few minutes; at Ctrl-C, SIGTERM or SIGHUP it saves one and ends training.

    The current step is finished first; a second Ctrl-C, a second later or more, does not wait for it.
    """

    def __init__(self, saves: bool, saved: Callable[[], None]) -> None:
        self.saves = saves  # False for models spread over processes
        self.on_saved = saved  # called when a state is complete
        self.signalled = False
        self.noted = -math.inf  # when the first signal came
        self.saved = time.monotonic()

    def __enter__(self) -> "Interruption":
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.signalled and now - self.noted >= BOUNCE:
            raise KeyboardInterrupt
        if not self.signalled:
            self.signalled, self.noted = True, now

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if processes.is_first():
            flush_folder(Path(str(args.output_dir)))
            self.on_saved()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        due = time.monotonic() - self.saved >= STATE_SECONDS
        wanted = processes.highest(2 * self.signalled + due, args.device)  # equal in all processes
        last = state.global_step == state.max_steps
        if wanted and self.saves and not (last and wanted < 2):
            control.should_save = True
            self.saved = time.monotonic()
        if wanted >= 2:
            self.signalled = True
            control.should_training_stop = True
