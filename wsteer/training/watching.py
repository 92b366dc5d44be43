"""The cosines that a run logs while it trains, and where it reports them."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import Trainer

from wsteer.checkpoint import Checkpoint
from wsteer.errors import WsteerError
from wsteer.monitoring.tracking import SimilarityCallback

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # what each reporter is installed as


@dataclass(frozen=True)
class Watch:
    """The deltas that the running change of weights is compared with, and the reporters that are told."""

    deltas: tuple[str | Path, ...]
    report_to: tuple[str, ...]
    base: Checkpoint

    def attach(self, trainer: Trainer, every: int) -> None:
        """Measure the cosines every so many steps, before the reporters hear of the step."""
        if self.deltas:
            SimilarityCallback(self.deltas, every, self.base).attach(trainer)


def check_reporters(names: Sequence[str]) -> None:
    """Refuse a reporter that is not known or not installed."""
    for name in names:
        if name not in PACKAGES:
            raise WsteerError(f"--report-to {name}: give one of {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise WsteerError(f"--report-to {name} needs {PACKAGES[name]}: pip install {PACKAGES[name]}")
