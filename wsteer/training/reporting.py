"""The cosines that a run logs while it trains, and where it reports them."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import Trainer
from transformers.integrations import TensorBoardCallback, WandbCallback

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.errors import WsteerError
from wsteer.monitoring.callback import SimilarityCallback
from wsteer.training import processes

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # each reporter's package


@dataclass(frozen=True)
class Reporting:
    """What the run `name` logs while it trains: cosines of its change with the `watched` deltas; and the reporters."""

    watched: tuple[str | Path, ...]
    report_to: tuple[str, ...]
    base: Checkpoint
    name: str

    def attach(self, trainer: Trainer, rate: str, every: int) -> None:
        """Measure the cosines every `every` steps, and send the rate's logs to the reporters.

        TensorBoard's files go to `runs/NAME/RATE` (or `$TENSORBOARD_LOGGING_DIR` instead of `runs`), since the output
        folder does not exist before training has ended.
        """
        if self.watched:
            SimilarityCallback(self.watched, every, self.base).attach(trainer)
        if "tensorboard" in self.report_to and processes.is_first():
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  tensorboard is no dependency

            folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR", "runs")) / self.name / rate
            trainer.add_callback(TensorBoardCallback(SummaryWriter(str(folder))))
        if "wandb" in self.report_to:
            trainer.args.run_name = f"{self.name} {rate}"
            trainer.add_callback(WandbCallback)


def check_reporters(names: Sequence[str]) -> None:
    """Refuse a reporter that is not known or not installed."""
    for name in names:
        if name not in PACKAGES:
            raise WsteerError(f"--report-to {name}: give one of {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise WsteerError(f"--report-to {name} needs {PACKAGES[name]}: pip install {PACKAGES[name]}")
