"""Σ kᵢ·deltaᵢ for one base: what steering adds, in every form of output."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.bases import base_warnings, check_bases
from wsteer.deltas.biases import as_biases
from wsteer.deltas.delta import Delta, fitted
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.steering.baking import baked

TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Combination:
    """Deltas with their weights: each output adds Σ weightᵢ·deltaᵢ times one of `ks`.

    One k for all deltas is the only one of `ks`, a sweep's values are the `ks`: `--k 2` and `--sweep=1,2` give the same
    bits. If each delta has its own k, these are the weights, and `ks` is 1.
    """

    paths: tuple[Path, ...]
    weights: tuple[float, ...]
    ks: tuple[float, ...]
    swept: bool

    @staticmethod
    def of(
        deltas: str | Path | Sequence[str | Path], k: float | Sequence[float] | None, sweep: Sequence[float] | None
    ) -> "Combination":
        """The combination for `--k` (one for all deltas or one for each) or `--sweep`."""
        paths = tuple(Path(path) for path in ([deltas] if isinstance(deltas, str | Path) else deltas))
        _check_twice(paths)
        needed = WsteerError("one of --k and --sweep is needed, and only one")
        given = () if k is None else [k] if isinstance(k, int | float) else k
        for each in (*given, *(() if sweep is None else sweep)):
            check_k(each)
        if sweep is not None:
            if k is not None:
                raise needed
            if not sweep or len(set(sweep)) != len(sweep):
                raise WsteerError("--sweep needs one or more different values, as --sweep=-2,-1,1,2")
            return Combination(paths, (1.0,) * len(paths), tuple(_unsigned_zero(each) for each in sweep), True)
        if k is None:
            raise needed
        ks = tuple(_unsigned_zero(each) for each in ([k] if isinstance(k, int | float) else k))
        if len(ks) not in (1, len(paths)):
            raise WsteerError(f"{len(ks)} values of --k for {len(paths)} deltas; give one for all or one for each")
        if len(set(ks)) == 1:
            return Combination(paths, (1.0,) * len(paths), ks[:1], False)
        return Combination(paths, ks, (1.0,), False)

    def each_k(self, k: float) -> tuple[float, ...]:
        """The coefficient of each delta in the output of `k`."""
        return tuple(k * weight for weight in self.weights)

    def total(self, checkpoint: Checkpoint, selection: Selection = EVERYTHING) -> tuple[Delta, tuple[str, ...]]:
        """Σ weightᵢ·deltaᵢ under the names of the base's files, and warnings; a delta of weight 0 must fit as well."""
        total = Delta("combination", {})
        warnings: dict[str, None] = {}
        for path, weight in zip(self.paths, self.weights, strict=True):
            delta = as_biases(Delta.load(path))
            added = {name: tensor.shape for name, tensor in baked(delta, checkpoint).added.items()}
            delta = fitted(delta, checkpoint, added)
            warnings.update(dict.fromkeys(on_base(str(path), delta, checkpoint)))
            if weight != 0:
                delta = weight * delta if weight != 1 else delta
                total = total + delta if total.terms else delta
        if not total.terms:
            raise WsteerError("the deltas cancel each other; there is nothing to steer by")
        return selection.of(total, checkpoint), tuple(warnings)

    def name(self, checkpoint: Checkpoint) -> str:
        """`<base>-<delta>-k<K>`, the default name of an output, for example `SmolLM2-w-k-1.5`."""
        ks = self.ks if self.swept or len(set(self.weights)) == 1 else self.weights
        stems = [path.stem for path in self.paths]
        return "-".join([Path(checkpoint.name).name, *stems, ("sweep" if self.swept else "k") + numbered(*ks)])


def on_base(path: str, delta: Delta, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Refuse a delta of another base than the checkpoint it is applied to; a warning if only their names differ."""
    check_bases([(path, delta.base), (checkpoint.name, checkpoint.identity)], "use the model it was made on")
    doubt = f"one is tuned from the other, or a copy, {path} means nothing here"
    return base_warnings([delta.base["name"], checkpoint.name], doubt)


def check_k(k: float) -> None:
    """Refuse a coefficient that is 0, infinite or NaN in float32, in which changes are computed; 0 itself is fine."""
    if k and not TINY <= abs(k) <= LARGEST:
        mend = "raise" if abs(k) < TINY else "lower"
        raise WsteerError(f"k = {k:g} is beyond the range of float32; {mend} --k")


def _check_twice(paths: Sequence[Path]) -> None:
    """Refuse a delta that is given twice, which would be added twice."""
    seen: set[str] = set()
    for path in paths:
        place = os.path.realpath(path)
        if place in seen:
            raise WsteerError(f"{path} is named twice; give it once, with the sum of its --k")
        seen.add(place)


def _unsigned_zero(k: float) -> float:
    """k as a float, with 0 for -0, whose folder would have another name."""
    return float(k) + 0.0


def numbered(*ks: float) -> str:
    """Coefficients as in file names: `-1.5`, `2,0.5`."""
    return ",".join(repr(k).removesuffix(".0") for k in ks)
