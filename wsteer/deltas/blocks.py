"""Activation vectors by decoder block: what each is called elsewhere, which are added, the variant of all blocks."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import depth, layer_of
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import simplified
from wsteer.errors import WsteerError

NAME = "blocks.{}"  # of a block's vector in a delta of kind `activation`
ALL_LAYERS = "all-layers"
PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,6})?)%")


def block_text(block: int, count: int) -> str:
    """The block's number, and what the paper and transformers call its output; the model has `count` blocks.

    transformers gives the last block's output only after the final norm (notes: activations A1).

    >>> block_text(11, 28)
    "block 11 (the paper's layer 12, hidden_states[12])"
    >>> block_text(27, 28)
    "block 27 (the paper's layer 28, before the final norm)"
    """
    other = f"hidden_states[{block + 1}]" if block < count - 1 else "before the final norm"
    return f"block {block} (the paper's layer {block + 1}, {other})"


def check_depth(given: str) -> Fraction:
    """The share of a model's blocks that a depth in percent names."""
    if not (match := PERCENT.fullmatch(given)):
        raise WsteerError(f"{given[:80]!r} is no depth in a model: give one from 0% to below 100%, alone, as 40%")
    return Fraction(match[1]) / 100


def block_at(given: str, count: int) -> int:
    """The one block at a depth in percent of a model of `count` blocks.

    >>> block_at("40%", 30), block_at("40%", 28), block_at("0%", 30), block_at("99.9%", 30)
    (12, 11, 0, 29)
    """
    return int(check_depth(given) * count)


def blocks_on(layers: Sequence[int] | str | None, base: Checkpoint) -> Sequence[int] | None:
    """Blocks as options name them: by numbers, or the one at a depth in percent of the `base`."""
    return [block_at(layers, depth(base))] if isinstance(layers, str) else layers


def check_chosen(
    reference: str, blocks: int, layers: Sequence[int] | str | None, variant: str | None, more: str = ""
) -> None:
    """Refuse to add the activation vectors of several `blocks` at once, unless `layers` or a `variant` says so.

    `more` is what a command takes for --layers beside numbers, as the message says it.
    """
    if variant is not None and layers is not None:
        raise WsteerError(f"{reference}: --variant {variant} adds at all blocks; leave out --layers")
    if variant is None and layers is None and blocks > 1:
        raise WsteerError(
            f"{reference} holds the activation vectors of {blocks} blocks, and each one already has what the "
            f"blocks before it add: choose a block with --layers, as --layers 12{more}, or add at every block what it "
            f"gains with --variant {ALL_LAYERS}"
        )


def varied(delta: Delta, variant: str, count: int) -> Delta:
    """The `variant` of an activation delta, for a model of `count` blocks."""
    if variant != ALL_LAYERS:
        raise WsteerError(f"variant is {variant!r}; the only one is {ALL_LAYERS!r}")
    return all_layers(delta, count)


def all_layers(delta: Delta, count: int) -> Delta:
    """The variant of an activation delta that steers all blocks of a model of `count` blocks at once.

    The raw vector a^l already holds what the blocks before l add, so block l gets a^l - a^(l-1), and block 0 its own.
    The last block gets nothing, as in the paper's code (select_steerer, notes: activations A3). Raises WsteerError if
    a block's vector is missing.
    """
    if delta.kind != "activation":
        raise WsteerError("--variant all-layers is of activation vectors, as wsteer actvec makes them")
    if count < 2:
        raise WsteerError("--variant all-layers needs a model of two blocks or more: the last one gets no vector")
    raw = {layer_of(name, None): terms for name, terms in delta.terms.items()}
    if missing := [block for block in range(count - 1) if block not in raw]:
        raise WsteerError(
            f"--variant all-layers needs the vectors of blocks 0 to {count - 2}, and the delta lacks that of block "
            f"{missing[0]}; make it on this model with wsteer actvec"
        )
    if beyond := [block for block in raw if block is None or block >= count]:
        raise WsteerError(f"the delta has a vector of block {beyond[0]}, and the model has {count} blocks")
    terms = {NAME.format(0): raw[0]}
    for block in range(1, count - 1):
        before = tuple((-scale, term) for scale, term in raw[block - 1])
        if left := simplified(raw[block] + before):  # none is left of two equal ones
            terms[NAME.format(block)] = left
    return replace(delta, terms=terms)
