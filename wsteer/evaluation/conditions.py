"""Conditions: all settings under which a model is evaluated, each with a name of its own."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property

BASE = "base"  # the method of the model as it is


@dataclass(frozen=True)
class Condition:
    """One (base, delta, k, layers, positions, system prompt, rounding, dtype).

    `method` is the line of pictures and tables that it is a point of, as `w`, `a@12`, `system` or `w random`. `model`
    tells the base, and `delta` is the digest of what is added, None for the model as it is. `part` says what
    --attribute kept or dropped. `step` is the training step of a checkpoint.
    """

    method: str
    k: float = 0.0
    model: str | None = None
    delta: str | None = None
    layers: tuple[int, ...] | None = None
    positions: str | None = None
    variant: str | None = None
    control: str | None = None
    part: str | None = None
    step: int | None = None
    system: str | None = None
    rounding: str = "auto"
    seed: int = 0
    dtype: str = "float32"

    @property
    def is_base(self) -> bool:
        """Whether it is the model as it is, which the others are compared with."""
        return self.method == BASE

    @property
    def is_steered(self) -> bool:
        """Whether a user may want to keep it: not the base, no control, no part of a delta taken apart."""
        return not self.is_base and self.control is None and self.part is None

    @property
    def label(self) -> str:
        """How tables and pictures name it: `w k=1`; unique within a run."""
        if self.is_base:
            return BASE
        part = f" {self.part}" if self.part else ""
        if self.step is not None:
            return f"{self.method} step {self.step}{part}"
        return f"{self.method}{part}" if self.delta is None else f"{self.method}{part} k={k_text(self.k)}"

    @cached_property  # each row has it
    def name(self) -> str:
        """A name that no other condition has: readable, and a digest of all settings. Files and caches are keyed by it.

        It holds only letters, digits and `.-_`.
        """
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        readable = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "_" for c in self.label)
        return f"{readable[:60]}-{digest[:12]}"

    def as_json(self) -> dict[str, object]:
        """The condition as results.json holds it, its name and label included."""
        return {"name": self.name, "label": self.label, **asdict(self)}

    @staticmethod
    def of_json(found: Mapping[str, object]) -> "Condition":
        """The condition that `as_json` gave. Raises TypeError for what is none."""
        known = {field.name for field in fields(Condition)}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
        condition = Condition(**{key: value for key, value in values.items() if key in known})  # type: ignore[arg-type]
        texts = ("model", "delta", "positions", "variant", "control", "part", "system")
        right = (
            all(isinstance(each, str) for each in (condition.method, condition.rounding, condition.dtype)),
            all(isinstance(getattr(condition, name), str | None) for name in texts),
            type(condition.k) in (int, float) and type(condition.seed) is int,
            condition.step is None or type(condition.step) is int,
            condition.layers is None or all(type(each) is int for each in condition.layers),
        )
        if not all(right):
            raise TypeError(f"{found} is no condition")
        return condition


def k_text(k: float) -> str:
    """k as text, with as many digits as it needs.

    >>> k_text(-1.0), k_text(0.5), k_text(0.1234567)
    ('-1', '0.5', '0.1234567')
    """
    return f"{k:g}" if float(f"{k:g}") == k else repr(k)
