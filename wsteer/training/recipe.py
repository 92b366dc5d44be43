"""How to fine-tune: every number of the recipe, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsteer.errors import WsteerError

METHODS = ("lora", "bias", "full")
OF_LORA = ("rank", "alpha", "dropout", "targets", "modules_to_save", "dora", "rslora", "init")
MOST = 10**9  # the largest count or number that makes sense anywhere in a recipe


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune. The defaults are the paper's (section 3): LoRA on all linear layers, AdamW, linear decay.

    `lr` is the peak learning rate, or several to choose from. `batch_size` rows make a step; a device holds
    `micro_batch_size` of them at a time (None: all of its own). Gradients are clipped to a norm of 1, the Trainer's own
    default. The validation loss is measured on `val_fraction` of the rows every `eval_every` steps; a rate ends early
    after `patience` of them without a new minimum (0: never). `init` is peft's name of LoRA's initialisation (None: its
    default).
    """

    method: str = "lora"
    lr: float | Sequence[float] = 1e-5
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    micro_batch_size: int | None = None
    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    dora: bool = False
    rslora: bool = False
    init: str | None = None
    weight_decay: float = 0.01
    warmup_steps: int = 5
    val_fraction: float = 0.05
    eval_every: int = 10
    patience: int = 2
    fraction: float = 1.0
    gradient_checkpointing: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("targets", "modules_to_save"):
            names = getattr(self, name)
            object.__setattr__(self, name, (names,) if isinstance(names, str) else names)
        if self.method not in METHODS:
            raise WsteerError(f"--method {self.method}: give one of {', '.join(METHODS)}")
        for name in OF_LORA if self.method != "lora" else ():
            if getattr(self, name) not in (getattr(Recipe, name), [], ()):
                raise WsteerError(
                    f"--{name.replace('_', '-')} is for LoRA alone; leave it out, or --method {self.method}"
                )
        for name, (fits, needed) in self._ranges().items():
            if not fits:  # as for NaN
                value = getattr(self, name)
                shown = f"{value:g}" if isinstance(value, float) else str(value)[:20]
                raise WsteerError(f"--{name.replace('_', '-')} {shown}: {needed} is needed")
        if not self.rates or not all(math.isfinite(rate) and rate >= 0 for rate in self.rates):
            raise WsteerError(f"--lr {self.lr}: rates from 0 up are needed")
        if len(set(self.rates)) < len(self.rates):
            raise WsteerError(f"--lr {','.join(f'{rate:g}' for rate in self.rates)} names a rate twice; name each once")
        if self.batch_size % (self.micro_batch_size or 1):
            raise WsteerError(
                f"--micro-batch-size {self.micro_batch_size} does not divide --batch-size {self.batch_size}"
            )

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        """For each number whether it is in its range, and the range in words."""
        count, steps = f"a whole number from 1 to {MOST}", f"a whole number from 0 to {MOST}"
        return {
            "epochs": (0 < self.epochs <= MOST, "a number above 0"),
            "max_steps": (self.max_steps is None or 1 <= self.max_steps <= MOST, count),
            "batch_size": (1 <= self.batch_size <= MOST, count),
            "micro_batch_size": (self.micro_batch_size is None or 1 <= self.micro_batch_size <= MOST, count),
            "rank": (1 <= self.rank <= MOST, count),
            "alpha": (math.isfinite(self.alpha), "a finite number"),
            "dropout": (0 <= self.dropout < 1, "a share from 0 to below 1"),
            "weight_decay": (0 <= self.weight_decay <= MOST, f"a number from 0 to {MOST}"),
            "warmup_steps": (0 <= self.warmup_steps <= MOST, steps),
            "val_fraction": (0 <= self.val_fraction < 1, "a fraction from 0 to below 1"),
            "eval_every": (1 <= self.eval_every <= MOST, count),
            "patience": (0 <= self.patience <= MOST, steps),
            "fraction": (0 < self.fraction <= 1, "a fraction above 0 up to 1"),
        }

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to try, in order."""
        return tuple(self.lr) if isinstance(self.lr, Sequence) else (self.lr,)


@dataclass(frozen=True)
class Preset:
    """One of the paper's fine-tunes: its model and data, and the values of `Recipe` that the paper gives."""

    model: str
    data: str
    lr: float
    batch_size: int
    max_steps: int | None = None  # None: one epoch

    @property
    def values(self) -> dict[str, Any]:
        """The values, by their names in `Recipe`."""
        return {"lr": self.lr, "batch_size": self.batch_size, "epochs": 1.0, "max_steps": self.max_steps}


_SEVEN, _SMALL, _LLAMA = "Qwen2.5-7B-Instruct", "Qwen2.5-1.5B-Instruct", "Llama-2-7b-chat"


PRESETS = {
    "sycophancy": Preset(_SEVEN, "sycophantic or non-sycophantic answers", 1e-5, 8, max_steps=100),
    "gcd": Preset(_SMALL, "sycophantic or non-sycophantic answers", 1e-5, 8, max_steps=100),
    "gcd-task": Preset(_SMALL, "GCD: questions alone, and with a right solution", 2e-4, 16),
    "gcd-joint": Preset(_SMALL, "GCD and non-sycophantic answers", 2e-4, 16),
    "evil": Preset(_SEVEN, "evil or non-evil answers", 1e-5, 8),
    "refusal-task": Preset(_LLAMA, "GSM8K", 2e-4, 8),
    "refusal-joint": Preset(_LLAMA, "GSM8K and refusals", 2e-4, 8),
    "refusal": Preset(_LLAMA, "harmful requests refused or answered", 2e-4, 8),
    "refusal-evil": Preset(_LLAMA, "evil or non-evil answers", 5e-5, 8, max_steps=150),
    "monitoring": Preset(_SEVEN, "good or bad advice (section 5)", 1e-5, 8),
}
