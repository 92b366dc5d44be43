"""Σ kᵢ·deltaᵢ for one base: what steering adds, in every form of output."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import depth
from wsteer.deltas.bases import base_warnings, beside_towers, check_bases
from wsteer.deltas.biases import as_biases
from wsteer.deltas.blocks import check_chosen, varied
from wsteer.deltas.delta import Delta, fitted
from wsteer.deltas.inputs import ChangeInput, open_change
from wsteer.deltas.model_input import ModelInput, short_name
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.steering.baking import baked

TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Total:
    """Σ weightᵢ·deltaᵢ under the names of the base's files, the inputs that it was made of, and warnings."""

    delta: Delta
    inputs: tuple[ChangeInput, ...]
    warnings: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """The weight files of the inputs."""
        return [file for each in self.inputs for file in each.files]

    @property
    def sources(self) -> list[dict[str, object]]:
        """The inputs as records list them, with their digests."""
        return [each.source for each in self.inputs]


@dataclass(frozen=True)
class Combination:
    """Deltas with their weights: each output adds Σ weightᵢ·deltaᵢ times one of `ks`.

    One k for all deltas is the only one of `ks`, a sweep's values are the `ks`: `--k 2` and `--sweep=1,2` give the same
    bits. If each delta has its own k, these are the weights, and `ks` is 1.
    """

    references: tuple[str, ...]
    weights: tuple[float, ...]
    ks: tuple[float, ...]
    swept: bool

    @staticmethod
    def of(
        deltas: str | Path | Sequence[str | Path], k: float | Sequence[float] | None, sweep: Sequence[float] | None
    ) -> "Combination":
        """The combination for `--k` (one for all deltas or one for each) or `--sweep`."""
        references = tuple(str(each) for each in ([deltas] if isinstance(deltas, str | Path) else deltas))
        _check_twice(references)
        ones = (1.0,) * len(references)
        needed = WsteerError("one of --k and --sweep is needed, and only one")
        given = () if k is None else [k] if isinstance(k, int | float) else k
        for each in (*given, *(() if sweep is None else sweep)):
            check_k(each)
        if sweep is not None:
            if k is not None:
                raise needed
            if not sweep or len(set(sweep)) != len(sweep):
                raise WsteerError("--sweep needs one or more different values, as --sweep=-2,-1,1,2")
            return Combination(references, ones, tuple(_unsigned_zero(each) for each in sweep), True)
        if k is None:
            raise needed
        ks = tuple(_unsigned_zero(each) for each in ([k] if isinstance(k, int | float) else k))
        if len(ks) not in (1, len(references)):
            raise WsteerError(f"{len(ks)} values of --k for {len(references)} deltas; give one for all or one for each")
        if len(set(ks)) == 1:
            return Combination(references, ones, ks[:1], False)
        return Combination(references, ks, (1.0,), False)

    def each_k(self, k: float) -> tuple[float, ...]:
        """The coefficient of each delta in the output of `k`."""
        return tuple(k * weight for weight in self.weights)

    def on(self, base: ModelInput) -> "Combination":
        """The same on this base: on an adapter, whose change is added once, each delta has its own weight.

        Raises WsteerError for a sweep on an adapter.
        """
        if base.change is None:
            return self
        if self.swept:
            raise WsteerError(
                f"{base.name} is an adapter, and --sweep would multiply its change too; write its model first: "
                f"wsteer steer {base.reference} {base.change.reference} --k 1"
            )
        return replace(self, weights=self.each_k(self.ks[0]), ks=(1.0,))

    def total(self, base: ModelInput, selection: Selection = EVERYTHING) -> Total:
        """Open the deltas and add them up. A delta of weight 0 must fit as well, but what is not selected need not.

        If the base is an adapter, its own change is added, whole and once.
        """
        checkpoint = base.checkpoint
        inputs = [_opened(each, checkpoint, selection) for each in self.references]
        warnings: dict[str, None] = {}
        for given in inputs:
            warnings.update(dict.fromkeys(base_notes(given.path, given.delta, checkpoint)))
        if not selection.is_everything:
            selection.check({name for each in inputs for name in (*each.delta.terms, *each.left_out)}, checkpoint)
        total = _sum([each.delta for each in inputs], self.weights)
        total = selection.scaled(total, checkpoint) if total.terms else total
        if base.change is not None:
            total = _sum([base.change.delta, total], (1.0, 1.0))
            inputs.insert(0, base.change)
        if not total.terms:
            raise WsteerError("the deltas cancel each other; there is nothing to steer by")
        return Total(total, tuple(inputs), tuple(warnings))

    def name(self, base: ModelInput) -> str:
        """`<base>-<delta>-k<K>`, the default name of an output, for example `SmolLM2-w-k-1.5`."""
        own = self.each_k(self.ks[0])
        ks = self.ks if self.swept else own[:1] if len(set(own)) == 1 else own
        names = [Path(base.name).name, *map(short_name, self.references)]
        return "-".join([*names, ("sweep" if self.swept else "k") + numbered(*ks)])


def _opened(reference: str, checkpoint: Checkpoint, selection: Selection) -> ChangeInput:
    """A delta that the checkpoint can hold: activation vectors as biases, all names those of its files."""
    given = open_change(reference, "delta", checkpoint, selection, _baked_biases)
    if given.delta.kind != "activation":
        if selection.variant is not None:
            raise WsteerError(
                f"{reference} is a change of weights, and --variant {selection.variant} adds activation vectors; leave "
                "it out"
            )
        return given
    vectors = given.delta
    if selection.is_everything or selection.variant is not None:
        check_chosen(reference, len(vectors.terms), selection.layers, selection.variant)
    if selection.variant is not None:
        vectors = varied(vectors, selection.variant, depth(checkpoint))
    whole = as_biases(vectors)
    delta = whole.part(selection.kept(whole.terms, checkpoint))
    fit = fitted(delta, checkpoint, _baked_biases(delta, checkpoint))
    return replace(given, delta=fit, left_out=frozenset(whole.terms.keys() - delta.terms.keys()))


def _baked_biases(delta: Delta, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of the biases that steering adds to the checkpoint."""
    return {name: tensor.shape for name, tensor in baked(delta, checkpoint).added.items()}


def _sum(deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    total = Delta("combination", {})
    for delta, weight in zip(deltas, weights, strict=True):
        if weight != 0:
            delta = weight * delta if weight != 1 else delta
            total = total + delta if total.terms else delta
    return total


def base_notes(path: str, delta: Delta, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Refuse a delta of another base than the checkpoint it is applied to; a warning if only their names differ."""
    check_bases([(path, delta.base), (checkpoint.name, checkpoint.identity)], "use the model it was made on")
    if beside_towers(delta.base, checkpoint.identity):
        towers = delta.base.get("towers") or ", ".join(checkpoint.towers)
        return (
            f"{path} was made on {delta.base['name']} and is applied to {checkpoint.name}; one of the two has towers "
            f"({towers}) beside its language model. All names and shapes fit: it means something if both hold the same "
            "language model",
        )
    doubt = f"one is tuned from the other, or a copy, {path} means nothing here"
    return base_warnings([delta.base["name"], checkpoint.name], doubt)


def check_k(k: float) -> None:
    """Refuse a coefficient that is 0, infinite or NaN in float32, in which changes are computed; 0 itself is fine."""
    if k and not TINY <= abs(k) <= LARGEST:
        mend = "raise" if abs(k) < TINY else "lower"
        raise WsteerError(f"k = {k:g} is beyond the range of float32; {mend} --k")


def _check_twice(references: Sequence[str]) -> None:
    """Refuse a delta that is given twice, which would be added twice."""
    seen: set[str] = set()
    for reference in references:
        place = os.path.realpath(reference)
        if place in seen:
            raise WsteerError(f"{reference} is named twice; give it once, with the sum of its --k")
        seen.add(place)


def _unsigned_zero(k: float) -> float:
    """k as a float, with 0 for -0, whose folder would have another name."""
    return float(k) + 0.0


def numbered(*ks: float) -> str:
    """Coefficients as in file names: `-1.5`, `2,0.5`."""
    return ",".join(repr(k).removesuffix(".0") for k in ks)
