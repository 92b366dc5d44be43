"""Activation vectors by decoder block, as files of other tools hold them, and what such a file tells beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wsteer.checkpoints.checkpoint import UNKNOWN_BASE
from wsteer.deltas.blocks import NAME
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import Dense
from wsteer.errors import WsteerError

MOST_BYTES = 1 << 28  # of a file of vectors; those of the largest models have a few megabytes
MOST_BLOCKS = 10_000  # models have a few hundred
MOST_TEXT = 1000  # characters of a text in such a file that is kept
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Vectors:
    """The vectors that a file of another tool holds: float32 [hidden] by decoder block, counted from 0.

    `meaning` says in words which of the file's entries is which block, and what was left out. `facts` are texts that
    wsteer put beside the vectors when it exported them; `settings` is what the record of an import keeps.
    """

    form: str
    by_block: Mapping[int, Tensor]
    meaning: str
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    def delta(self, source: Mapping[str, object]) -> Delta:
        """The vectors as a delta, made from the file that `source` names in records."""
        return Delta(
            "activation",
            {NAME.format(block): ((1.0, Dense(vector)),) for block, vector in sorted(self.by_block.items())},
            base={**UNKNOWN_BASE, **{key: text for key, text in self.facts.items() if key in UNKNOWN_BASE}},
            sources=(source,),
            layers=sorted(self.by_block),
            positions=self.facts.get("positions"),
            options={"format": self.form, **self.settings},
        )


def facts_of(delta: Delta) -> dict[str, str]:
    """What an exported file tells beside the vectors: their base, and the positions that they were recorded at."""
    known = {**delta.base, "positions": delta.positions}
    return {key: text for key, text in known.items() if isinstance(text, str)}


def kept_facts(found: Mapping[str, object]) -> dict[str, str]:
    """Those of a file's facts that `facts_of` writes, if they are short texts."""
    known = {key: found.get(key) for key in (*UNKNOWN_BASE, "positions")}
    return {key: text for key, text in known.items() if isinstance(text, str) and len(text) <= MOST_TEXT}


def checked(where: object, name: str, tensor: object) -> Tensor:
    """A vector as float32 [hidden] in memory of its own; a WsteerError names what is wrong with it.

    `where` is the file, `name` what it calls the vector. Sides of 1 before the last are dropped.
    """
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in FLOATS:
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise WsteerError(f"{where}: {name} is no dense tensor of floating-point numbers ({kind}); write one vector")
    if not tensor.dim() or tensor.numel() != tensor.shape[-1] or not 0 < tensor.numel() <= MOST_BYTES // 4:
        raise WsteerError(f"{where}: {name} has shape {list(tensor.shape)}, and one vector [hidden] is needed")
    vector = tensor.detach().reshape(-1).to(torch.float32, copy=True)
    if not vector.isfinite().all():
        raise WsteerError(f"{where}: {name} holds NaN or infinity; make it again, perhaps in float32")
    return vector


def without_zeros(where: object, by_block: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The vectors that change something, by block; a WsteerError if there is none, or their lengths differ."""
    kept = {block: vector for block, vector in by_block.items() if vector.any()}
    if not kept:
        raise WsteerError(f"{where} holds no vector that changes anything; make it again")
    sizes = sorted({len(vector) for vector in kept.values()})
    if len(sizes) > 1:
        raise WsteerError(f"{where} holds vectors of {sizes[0]} and of {sizes[1]} numbers; all must be of one model")
    return kept
