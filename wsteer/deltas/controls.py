"""Controls of a delta: changes that say nothing, as large as it in every tensor.

An effect that a control has too comes from the size of the change alone. Nothing is drawn or moved before rows are
asked for, so a control takes no more memory than its delta. It depends on the seed and the tensors' names only, not on
threads.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import parameter_sums
from wsteer.deltas.terms import Dense, Factor, LowRank, Term, Terms, is_low_rank, read_factor
from wsteer.errors import WsteerError
from wsteer.files.tensors import TensorEntry, row_blocks
from wsteer.workers import in_order

CONTROLS = ("random", "shuffled")


def control(delta: Delta, kind: str, seed: int = 0) -> Delta:
    """The control of this kind of a delta, whose terms must be bound to the base; each tensor keeps its norm.

    `random`: Gaussian entries, or Gaussian factors of the same rank where the change is low-rank. `shuffled`: the
    tensor's rows and the entries of its last axis in another order, which keeps its spectrum too. Both have norms in
    float64. `random` reads the delta once.

    >>> import torch, wsteer
    >>> w = wsteer.Delta.of_tensors({"a.weight": torch.ones(4, 4)})
    >>> round(control(w, "random").norm(), 5), abs(control(w, "random").cosine(w)) < 0.9
    (4.0, True)
    """
    if kind not in CONTROLS:
        raise WsteerError(f"there is no control {kind!r}; give one of {', '.join(CONTROLS)}")
    names = list(delta.terms)
    if kind == "random":
        made = dict(zip(names, in_order(lambda name: _random(name, delta, seed), names), strict=True))
    else:
        made = {name: _shuffled(name, delta.terms[name], seed) for name in names}
    return replace(delta, terms=made, options={**delta.options, "control": kind, "control_seed": seed})


def _random(name: str, delta: Delta, seed: int) -> Terms:
    terms, shape = delta.terms[name], delta.shape(name)
    term: Term = Dense(RandomRows(shape, name, seed))
    if is_low_rank(terms):
        rank = delta.rank(name)
        term = LowRank(
            RandomFactor((shape[0], rank), f"{name}.lora_B", seed),
            RandomFactor((rank, shape[1]), f"{name}.lora_A", seed),
        )
    dots = parameter_sums(name, [terms, ((1.0, term),)], 2).dots
    own, drawn = float(dots[0, 0]), float(dots[1, 1])
    return (((own / drawn) ** 0.5 if drawn else 0.0, term),)


def _shuffled(name: str, terms: Terms, seed: int) -> Terms:
    def moved(term: Term) -> Term:
        order = Order(term.shape, name, seed)
        if isinstance(term, LowRank):
            return LowRank(ShuffledFactor(term.lora_B, order, 0), ShuffledFactor(term.lora_A, order, 1))
        return Dense(ShuffledRows(term, order))

    return tuple((scale, moved(term)) for scale, term in terms)


@dataclass(frozen=True)
class RandomRows:
    """A tensor of Gaussian entries; each block of rows has a generator of its own."""

    shape: tuple[int, ...]
    name: str
    seed: int

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32."""
        found = torch.empty(stop - start, *self.shape[1:])
        for block, here, there in _overlaps(self.shape, start, stop):
            drawn = _generator(self.seed, self.name, block[0]).standard_normal(
                (block[1] - block[0], *self.shape[1:]), dtype=np.float32
            )
            found[here] = torch.from_numpy(drawn[there])
        return found


@dataclass(frozen=True)
class RandomFactor:
    """A factor of Gaussian entries."""

    shape: tuple[int, ...]
    name: str
    seed: int

    def read(self) -> Tensor:
        """The factor, float32."""
        return RandomRows(self.shape, self.name, self.seed).rows(0, self.shape[0])


@dataclass(frozen=True)
class Order:
    """The order in which a control has the rows of a tensor, and the entries of its last axis if it has two or more.

    Blocks of rows change places, and rows within a block, so that a block is read at once.
    """

    shape: tuple[int, ...]
    name: str
    seed: int

    def blocks(self) -> list[tuple[int, int]]:
        """For each block of the result the block of rows that is in it."""
        blocks = list(row_blocks(self.shape))
        whole = len(blocks) - 1  # the last block may have fewer rows, and keeps its place
        moved = _generator(self.seed, self.name, "blocks").permutation(max(whole, 0))
        return [*(blocks[index] for index in moved), *blocks[-1:]]

    def within(self, first: int, count: int) -> Tensor:
        """The order of the `count` rows of the block of the result that begins at `first`."""
        return torch.from_numpy(_generator(self.seed, self.name, first).permutation(count))

    def rows(self) -> Tensor:
        """For each row of the result its index in the source."""
        targets = row_blocks(self.shape)
        pairs = zip(targets, self.blocks(), strict=True)
        return torch.cat([source[0] + self.within(first, stop - first) for (first, stop), source in pairs])

    def columns(self) -> Tensor:
        """For each entry of the last axis its index in the source."""
        return torch.from_numpy(_generator(self.seed, self.name, "columns").permutation(self.shape[-1]))


@dataclass(frozen=True)
class ShuffledFactor:
    """A factor whose rows (axis 0) or columns (axis 1) have the order of its product's."""

    factor: Tensor | TensorEntry | Factor
    order: Order
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The factor's shape."""
        return tuple(self.factor.shape)

    def read(self) -> Tensor:
        """The factor, float32."""
        whole = read_factor(self.factor)
        return whole[:, self.order.columns()] if self.axis else whole[self.order.rows()]


@dataclass(frozen=True)
class ShuffledRows:
    """A dense tensor in another order."""

    source: Dense
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.source.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, in the dtype of the source."""
        found = []
        blocks = dict(zip(row_blocks(self.shape), self.order.blocks(), strict=True))
        for block, _, there in _overlaps(self.shape, start, stop):
            found.append(self.source.rows(*blocks[block])[self.order.within(block[0], block[1] - block[0])[there]])
        whole = torch.cat(found) if found else self.source.rows(0, 0)
        return whole[..., self.order.columns()] if len(self.shape) > 1 else whole


def _overlaps(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[tuple[int, int], slice, slice]]:
    """The blocks of rows that rows `start` to `stop` are in, with these rows' places there and in the block."""
    for first, last in row_blocks(shape):
        begin, end = max(start, first), min(stop, last)
        if begin < end:
            yield (first, last), slice(begin - start, end - start), slice(begin - first, end - first)


def _generator(seed: int, name: str, part: int | str) -> np.random.Generator:
    """The generator of one part of one tensor. (torch's on the CPU keep only 32 bits of a seed.)"""
    digest = hashlib.sha256(f"{seed}:{name}:{part}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype="<u4"))
