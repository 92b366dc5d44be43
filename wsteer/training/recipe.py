"""How to fine-tune: every number of the recipe, checked."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from wsteer.errors import WsteerError

# what each of peft's methods takes beside targets and modules_to_save, with its default: LoRA's are the paper's, the
# others peft's own
ADAPTERS: dict[str, dict[str, int | float | None]] = {
    "lora": {"rank": 32, "alpha": 16.0, "dropout": 0.0, "dora": False, "rslora": False, "init": None},
    "delora": {"rank": 8, "dropout": 0.0},
    "oft": {"block_size": 32, "dropout": 0.0},
    "boft": {"block_size": 4, "dropout": 0.0},
    "ia3": {},
    "loha": {"rank": 8, "alpha": 8.0},
    "lokr": {"rank": 8, "alpha": 8.0},
    "vera": {"rank": 256, "dropout": 0.0},
}
METHODS = (*ADAPTERS, "bias", "full")
MODULES = ("targets", "modules_to_save")  # what all of ADAPTERS take
MOST = 10**9  # the largest count or number that makes sense anywhere in a recipe


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune. The defaults are the paper's (section 3): LoRA on all linear layers, AdamW, linear decay.

    `lr` is the peak learning rate, or several to choose from. `batch_size` rows make a step; a device holds
    `micro_batch_size` of them at a time (None: all of its own). Gradients are clipped to a norm of 1, the Trainer's own
    default. The validation loss is measured on `val_fraction` of the rows every `eval_every` steps; a rate ends early
    after `patience` of them without a new minimum (0: never). None means the method's default for `rank`, `alpha`,
    `dropout` and `block_size`. `init` is peft's name of LoRA's initialisation (None: its default).
    `layer_slice` (A, B) trains the blocks b of L with A <= b/L < B alone.
    """

    method: str = "lora"
    lr: float | Sequence[float] = 1e-5
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    micro_batch_size: int | None = None
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    block_size: int | None = None
    targets: Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    dora: bool = False
    rslora: bool = False
    init: str | None = None
    layer_slice: tuple[float, float] | None = None
    weight_decay: float = 0.01
    warmup_steps: int = 5
    val_fraction: float = 0.05
    eval_every: int = 10
    patience: int = 2
    fraction: float = 1.0
    gradient_checkpointing: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in MODULES:
            names = getattr(self, name)
            object.__setattr__(self, name, (names,) if isinstance(names, str) else names)
        if self.method not in METHODS:
            raise WsteerError(f"--method {self.method}: give one of {', '.join(METHODS)}")
        self._check_taken()
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

    def _check_taken(self) -> None:
        """Refuse an option that the method does not have."""
        taken = {*ADAPTERS[self.method], *MODULES} if self.method in ADAPTERS else set()
        for name in dict.fromkeys((*MODULES, *(name for options in ADAPTERS.values() for name in options))):
            value = getattr(self, name)
            given = value is not None and value is not False and not (isinstance(value, Sequence) and not value)
            if given and name not in taken:
                having = [method for method in ADAPTERS if name in (*MODULES, *ADAPTERS[method])]
                raise WsteerError(
                    f"--{name.replace('_', '-')} is no option of --method {self.method}, but of "
                    f"{', '.join(having)}; leave it out"
                )

    def _ranges(self) -> dict[str, tuple[bool, str]]:
        """For each number whether it is in its range, and the range in words."""
        count, steps = f"a whole number from 1 to {MOST}", f"a whole number from 0 to {MOST}"
        return {
            "epochs": (0 < self.epochs <= MOST, "a number above 0"),
            "max_steps": (self.max_steps is None or 1 <= self.max_steps <= MOST, count),
            "batch_size": (1 <= self.batch_size <= MOST, count),
            "micro_batch_size": (self.micro_batch_size is None or 1 <= self.micro_batch_size <= MOST, count),
            "rank": (self.rank is None or 1 <= self.rank <= MOST, count),
            "alpha": (self.alpha is None or math.isfinite(self.alpha), "a finite number"),
            "dropout": (self.dropout is None or 0 <= self.dropout < 1, "a share from 0 to below 1"),
            "block_size": (self.block_size is None or 2 <= self.block_size <= MOST, f"a whole number from 2 to {MOST}"),
            "layer_slice": (
                self.layer_slice is None or 0 <= self.layer_slice[0] < self.layer_slice[1] <= 1,
                "A:B with 0 <= A < B <= 1, as 0.3:0.8,",
            ),
            "weight_decay": (0 <= self.weight_decay <= MOST, f"a number from 0 to {MOST}"),
            "warmup_steps": (0 <= self.warmup_steps <= MOST, steps),
            "val_fraction": (0 <= self.val_fraction < 1, "a fraction from 0 to below 1"),
            "eval_every": (1 <= self.eval_every <= MOST, count),
            "patience": (0 <= self.patience <= MOST, steps),
            "fraction": (0 < self.fraction <= 1, "a fraction above 0 up to 1"),
        }

    @property
    def options(self) -> dict[str, Any]:
        """The options that the method has of its own, with its defaults where none are given."""
        defaults = ADAPTERS.get(self.method, {})
        given = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if value is None else value for name, value in given.items()}

    @property
    def recorded(self) -> dict[str, Any]:
        """All values as records have them, with the method's defaults."""
        return {**asdict(self), "lr": list(self.rates), **self.options}

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to try, in order."""
        return tuple(self.lr) if isinstance(self.lr, Sequence) else (self.lr,)

    def blocks(self, count: int) -> list[int]:
        """The blocks of `count` that are trained: all, or those that begin in the slice of the depth.

        With A <= b/L < B, slices that meet share no block and leave none out. Raises WsteerError if no block is left.

        >>> Recipe(layer_slice=(0.3, 0.8)).blocks(30)[::14]
        [9, 23]
        """
        if self.layer_slice is None:
            return list(range(count))
        first, last = (Fraction(str(share)) for share in self.layer_slice)  # the decimals as they are written
        kept = [block for block in range(count) if first <= Fraction(block, count) < last]
        if not kept:
            shown = ":".join(f"{share:g}" for share in self.layer_slice)
            raise WsteerError(f"--layer-slice {shown} begins none of the model's {count} blocks; widen it")
        return kept
