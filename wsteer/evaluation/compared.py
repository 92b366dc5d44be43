"""What an evaluation is to compare, as its options name it: nothing of it is opened here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wsteer.errors import WsteerError
from wsteer.files.provenance import recordable

EACH = "each"  # for layers: every block of an activation vector by itself
VARIANTS = ("all-layers",)

By = Literal["layers", "modules"]


@dataclass(frozen=True)
class Added:
    """A delta file, an adapter or a checkpoint that is added to the model, under a short `name` of its own.

    `layers` are the decoder blocks of it that are used: their numbers, or a depth, as "40%", for the one block there;
    "each" tries those of activation vectors one by one. The `variant` all-layers adds at each block what activation
    vectors gain there.
    """

    reference: str | Path
    name: str | None = None
    layers: Sequence[int] | str | None = None
    variant: str | None = None

    @property
    def recorded(self) -> dict[str, object]:
        """How records name it."""
        layers = self.layers if isinstance(self.layers, str) or self.layers is None else list(self.layers)
        return {"path": recordable(self.reference), "name": self.name, "layers": layers, "variant": self.variant}


@dataclass(frozen=True)
class Compared:
    """What is compared with the model as it is.

    Every one of `added` is added k times for each of `ks` (None: once), or for the k that reach a KL of `calibrate`
    nats, and its `controls` like it. The checkpoints of each training folder in `checkpoints`, and each system prompt,
    a text or a file, are one condition. `attribute` keeps and drops the parts of the one delta.
    """

    added: Sequence[Added] = ()
    ks: Sequence[float] | None = None
    checkpoints: Sequence[str] = ()
    systems: Sequence[str] = ()
    controls: Sequence[str] = ()
    positions: str = "response"
    attribute: By | None = None
    calibrate: float | None = None

    def __post_init__(self) -> None:
        options = {"k": self.ks, "control": self.controls, "calibrate": self.calibrate, "attribute": self.attribute}
        for name, value in options.items() if not self.added else ():
            if value is not None and value != () and value != []:
                raise WsteerError(f"--{name} needs a --delta")
        if self.ks is not None and not self.ks:
            raise WsteerError("ks names no k; give one or more, as (-1, 1)")
        if twice := next((each for each in self.controls if list(self.controls).count(each) > 1), None):
            raise WsteerError(f"--control {twice} is given twice")
        if self.calibrate is None:
            return
        if self.ks is not None:
            raise WsteerError("--calibrate finds the k of each delta; leave out --k")
        if self.attribute is not None:
            raise WsteerError("--attribute compares parts at one k; leave out --calibrate, or give its k with --k")
        if not self.calibrate > 0 or not math.isfinite(self.calibrate):
            raise WsteerError(f"calibrate is {self.calibrate!r}; a KL is a positive number of nats")

    @staticmethod
    def of(
        delta: str | Path | Added | Sequence[str | Path | Added],
        ks: float | Sequence[float] | None,
        layers: Sequence[int] | str | None,
        variant: str | None,
        checkpoints: str | Path | Sequence[str | Path],
        system: str | Sequence[str],
        controls: str | Sequence[str],
        positions: str,
        attribute: By | None,
        calibrate: float | None,
    ) -> "Compared":
        """As the program is given it; `layers` and `variant` are for deltas without their own."""
        given = [delta] if isinstance(delta, str | Path | Added) else delta
        added = [each if isinstance(each, Added) else Added(each) for each in given]
        for name, value in (("layers", layers), ("variant", variant)):
            if value is not None and not added:
                raise WsteerError(f"--{name} needs a --delta")
        return Compared(
            [
                each if each.layers is not None or each.variant else replace(each, layers=layers, variant=variant)
                for each in added
            ],
            [ks] if isinstance(ks, int | float) else ks,
            texts(checkpoints),
            texts(system),
            texts(controls),
            positions,
            attribute,
            calibrate,
        )

    @property
    def recorded(self) -> dict[str, object]:
        """The options as records list them."""
        return {
            "delta": [each.recorded for each in self.added],
            "k": list(self.ks or [1.0]) if self.added and self.calibrate is None else None,
            "positions": self.positions,
            "checkpoints": [recordable(each) for each in self.checkpoints],
            "system": [recordable(each) for each in self.systems],
            "control": list(self.controls),
            "attribute": self.attribute,
            "calibrate": self.calibrate,
        }


def texts(given: str | Path | Sequence[str | Path]) -> list[str]:
    """What was given as a list of texts: a text or a path alone is one of them."""
    return [str(given)] if isinstance(given, str | Path) else [str(each) for each in given]
