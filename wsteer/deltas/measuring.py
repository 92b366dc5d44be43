"""Write a delta and measure it in the same pass over its inputs: dots with both sides, energy by parameter."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import torch
from torch import Tensor

from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import TermRows, distinct, low_rank_gram
from wsteer.deltas.terms import LowRank, check_written, read_factor
from wsteer.deltas.truncation import Truncated, remaining_factors, truncate_factors, truncate_rows
from wsteer.errors import WsteerError
from wsteer.files.tensors import TensorWriter, row_blocks
from wsteer.progress import Progress
from wsteer.workers import in_order

ROUNDING = 1e-15  # of the sizes that are added: what float64's rounding of a few terms can leave


@dataclass
class Measured:
    """Sums over a delta, collected while it is written.

    `dots` [n, n]: the dot products of the n vectors, the delta (before truncation) first. `squares`, `ranks`: the
    squared norm and the rank (None: dense) of each parameter written. `zeros`: the zeros among the `entries` of dense
    changes. `not_truncated`: the changes that are no matrices, which a truncation holds whole, and its complement not.
    """

    dots: list[list[float]]
    squares: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, int | None] = field(default_factory=dict)
    zeros: int = 0
    entries: int = 0
    truncated: bool = False
    not_truncated: int = 0

    @property
    def written(self) -> float:
        """The squared norm of what was written."""
        return math.fsum(self.squares.values())

    def shares(self, group: Callable[[str], str]) -> dict[str, float]:
        """The share of the squared norm in each group of parameters; groups with numbers as names come first."""
        total = self.written
        sums: dict[str, float] = {}
        order = {name: (not group(name).isdecimal(), group(name).zfill(9), name) for name in self.squares}
        for name in sorted(self.squares, key=lambda name: order[name]):
            sums[group(name)] = sums.get(group(name), 0.0) + self.squares[name]
        return {key: value / total for key, value in sums.items()} if total else {}


@dataclass(frozen=True)
class _Nothing:
    """A parameter whose change is zero: nothing is written. `dots` [n, n] is its part of the sums."""

    name: str
    dots: Tensor


@dataclass(frozen=True)
class _Factors:
    """A parameter written as lora_B [out, r] and lora_A [r, in], with their product's squared norm."""

    name: str
    dots: Tensor
    lora_B: Tensor
    lora_A: Tensor
    square: float


@dataclass(frozen=True)
class _Rows:
    """A block of rows of a parameter written dense, with its squared norm and its zeros."""

    name: str
    dots: Tensor
    rows: Tensor
    square: float
    zeros: int


_Piece = _Nothing | _Factors | _Rows


def write_measured(
    path: Path,
    vectors: Sequence[Delta],
    rank: int | None,
    complement: bool,
    described: Delta,
    sources: Callable[[], tuple[Mapping[str, object], ...]],
    progress: Progress,
) -> Measured:
    """Write `vectors[0]` to `path`, truncated to `rank` if given, and measure it against the others.

    For the `complement` what the truncation leaves is written: dense where the change is dense. `described` is the
    delta with placeholder sources of the same length; `sources` gives the real ones at the end. Each input is read
    once. Dense parameters whose change is zero are left out. Raises WsteerError if nothing is left to write.
    """
    delta = vectors[0]
    shapes = _remaining_shapes(delta, rank) if complement and rank is not None else _shapes(delta, rank)
    measured = Measured([[0.0] * len(vectors) for _ in vectors], truncated=rank is not None)
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    with TensorWriter(path, shapes, described.info()) as writer:
        pieces = in_order(lambda job: job(), _jobs(vectors, rank, complement, progress))
        for name, own in groupby(pieces, key=lambda piece: piece.name):
            dots = _write_parameter(writer, own, measured)
            total += dots
            if rank is not None and len(delta.shape(name)) != 2 and dots[0, 0] > 0:
                measured.not_truncated += 1
        measured.dots = total.tolist()
        if complement and not measured.squares and 0 < measured.dots[0][0] < math.inf:
            raise WsteerError(f"the part of rank {rank} is the whole delta, and leaves nothing; lower --rank")
        writer.finish(replace(described, sources=sources()).info())
    return measured


def _shapes(delta: Delta, rank: int | None) -> dict[str, tuple[int, ...]]:
    """The tensors that may be written, in the order of their parameters."""
    if rank is None:
        return dict(sorted(delta.stored_shapes()))
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(delta.terms):
        shape = delta.shape(name)
        if len(shape) == 2:
            kept = min(rank, *shape, delta.rank(name) if delta.is_low_rank(name) else rank)
            shapes[f"{name}.lora_A"], shapes[f"{name}.lora_B"] = (kept, shape[1]), (shape[0], kept)
        else:
            shapes[name] = shape
    return shapes


def _remaining_shapes(delta: Delta, rank: int) -> dict[str, tuple[int, ...]]:
    """The tensors that may be written of what a truncation leaves, in the order of their parameters."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(delta.terms):
        shape = delta.shape(name)
        if len(shape) != 2:
            continue
        if not delta.is_low_rank(name):
            shapes.update({name: shape} if rank < min(shape) else {})
        elif (left := min(*shape, delta.rank(name)) - rank) > 0:
            shapes[f"{name}.lora_A"], shapes[f"{name}.lora_B"] = (left, shape[1]), (shape[0], left)
    return shapes


def _jobs(
    vectors: Sequence[Delta], rank: int | None, complement: bool, progress: Progress
) -> Iterator[Callable[[], _Piece]]:
    delta = vectors[0]
    for name in progress(sorted(delta.terms), "write"):
        sums = [vector.terms.get(name, ()) for vector in vectors]
        terms, coefficients = distinct(sums)
        products = [term for term in terms if isinstance(term, LowRank)]
        if len(products) == len(terms):
            yield partial(_low_rank_piece, name, products, coefficients, rank, complement)
            continue
        sources, shape = TermRows(terms), delta.shape(name)
        rows: Callable[[int, int], _Piece] = partial(_dense_piece, name, sources, coefficients)
        if rank is not None and complement:
            if len(shape) == 2 and rank < min(shape):
                rows = _Remaining(name, sources, coefficients, rank).piece
            else:  # the truncation holds it whole
                rows = partial(_measured_piece, name, sources, coefficients)
        elif rank is not None and len(shape) == 2:
            yield partial(_truncated_piece, name, sources, coefficients, rank)
            continue
        for start, stop in row_blocks(shape):
            yield partial(rows, start, stop)


def _low_rank_piece(
    name: str, terms: Sequence[LowRank], coefficients: Tensor, rank: int | None, complement: bool
) -> _Factors | _Nothing:
    """The sum of products with the coefficients `coefficients[0]` (of [n, terms]), as factors, truncated to `rank`.

    For the `complement`, what the truncation leaves.
    """
    factors = [(read_factor(term.lora_B), read_factor(term.lora_A)) for term in terms]
    dots = low_rank_gram(factors, coefficients)
    used = [(float(scale), pair) for scale, pair in zip(coefficients[0], factors, strict=True) if scale != 0]
    exact = [scale * b if abs(scale) == 1 else (scale * b.double()).float() for scale, (b, _) in used]  # rounded once
    lora_B = torch.cat(exact, dim=1)
    lora_A = torch.cat([a for _, (_, a) in used], dim=0)
    if complement and rank is not None:
        left = remaining_factors(lora_B, lora_A, rank)
        return _Nothing(name, dots) if left is None else _Factors(name, dots, left.lora_B, left.lora_A, left.kept)
    if rank is None or rank >= lora_A.shape[0]:
        return _Factors(name, dots, lora_B, lora_A, float(dots[0, 0]))
    closest = truncate_factors(lora_B, lora_A, rank)
    return _Factors(name, dots, closest.lora_B, closest.lora_A, closest.kept)


def _dense_piece(name: str, sources: TermRows, coefficients: Tensor, start: int, stop: int) -> _Rows:
    """Rows `start` to `stop` of the sum with the coefficients `coefficients[0]` (of [n, terms])."""
    blocks = sources.rows(start, stop)
    rows = _sum(blocks, coefficients[0]).float()
    flat = torch.stack([block.double().flatten() for block in blocks])  # [terms, rows · columns]
    sums = coefficients @ flat  # [n, rows · columns]
    sums[0] = rows.double().flatten()  # as written, after rounding; infinity beyond float32
    dots = sums @ sums.T
    return _Rows(name, dots, rows, float(dots[0, 0]), int((rows == 0).sum()))


def _measured_piece(name: str, sources: TermRows, coefficients: Tensor, start: int, stop: int) -> _Nothing:
    """The dot products over rows `start` to `stop` of a change that is not written."""
    return _Nothing(name, _dense_piece(name, sources, coefficients, start, stop).dots)


class _Remaining:
    """What the closest factors leave of the dense sum with the coefficients `coefficients[0]`, by blocks of rows."""

    def __init__(self, name: str, sources: TermRows, coefficients: Tensor, rank: int) -> None:
        self._name, self._sources, self._coefficients, self._rank = name, sources, coefficients, rank
        self._closest: Truncated | None = None
        self._found = False
        self._lock = threading.Lock()  # the first block finds the factors, the others of its parameter wait

    def piece(self, start: int, stop: int) -> _Rows:
        """Rows `start` to `stop`: each entry is rounded once. `zeros` counts those of the whole change."""
        with self._lock:
            if not self._found:
                self._closest = _closest(self._name, self._sources, self._coefficients, self._rank)
                self._found = True
        whole = _dense_piece(self._name, self._sources, self._coefficients, start, stop)
        if self._closest is None:
            return whole
        part = self._closest.lora_B[start:stop].double() @ self._closest.lora_A.double()
        rows = (_sum(self._sources.rows(start, stop), self._coefficients[0]).double() - part).float()
        return replace(whole, rows=rows, square=float((rows.double() ** 2).sum()))


def _truncated_piece(name: str, sources: TermRows, coefficients: Tensor, rank: int) -> _Factors | _Nothing:
    """The closest factors of the dense sum with the coefficients `coefficients[0]`, in passes over its rows."""
    shape = (sources.shape[0], sources.shape[1])
    dots = torch.zeros(len(coefficients), len(coefficients), dtype=torch.float64)
    for start, stop in row_blocks(shape):
        dots += _dense_piece(name, sources, coefficients, start, stop).dots
    closest = _closest(name, sources, coefficients, rank)
    if closest is None:
        return _Nothing(name, dots)
    return _Factors(name, dots, closest.lora_B, closest.lora_A, closest.kept)


def _closest(name: str, sources: TermRows, coefficients: Tensor, rank: int) -> Truncated | None:
    """The closest factors of this rank of the dense sum with the coefficients `coefficients[0]`; None for zero."""
    shape = (sources.shape[0], sources.shape[1])
    return truncate_rows(lambda start, stop: _sum(sources.rows(start, stop), coefficients[0]), shape, rank, name)


def _sum(blocks: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Σ cⱼ·blockⱼ: the difference of two stored tensors is rounded once, in the blocks' own precision.

    With other coefficients than ±1 in float64, where the products of large, nearly equal tensors are rounded little;
    what is no more than that rounding becomes 0, so that a frozen parameter stays one.
    """
    used = [(float(scale), block) for scale, block in zip(coefficients, blocks, strict=True) if scale != 0]
    plain = all(abs(scale) == 1 for scale, _ in used)
    parts = [scale * (block if plain else block.double()) for scale, block in used]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    if not plain and len(parts) > 1:
        size = parts[0].abs()
        for part in parts[1:]:
            size = size + part.abs()
        total[total.abs() <= ROUNDING * size] = 0
    return total


def _write_parameter(writer: TensorWriter, pieces: Iterator[_Piece], measured: Measured) -> Tensor:
    """Write one parameter from its pieces, add it to `measured`, and return its dot products [n, n]."""
    first = next(pieces)
    name = first.name
    if isinstance(first, _Nothing):
        for piece in pieces:
            first.dots.add_(piece.dots)
        return first.dots
    if isinstance(first, _Factors):
        writer.add(f"{name}.lora_A", [check_written(name, first.lora_A)])
        writer.add(f"{name}.lora_B", [check_written(name, first.lora_B)])
        measured.squares[name], measured.ranks[name] = first.square, first.lora_A.shape[0]
        return first.dots
    dots, square, zeros, entries = torch.zeros_like(first.dots), 0.0, 0, 0

    def blocks() -> Iterator[Tensor]:
        nonlocal dots, square, zeros, entries
        for piece in chain([first], pieces):
            if isinstance(piece, _Rows):
                dots, square = dots + piece.dots, square + piece.square
                zeros, entries = zeros + piece.zeros, entries + piece.rows.numel()
                yield piece.rows

    writer.add(name, blocks())
    if zeros == entries:  # a frozen parameter
        writer.drop_last()
    else:
        measured.zeros, measured.entries = measured.zeros + zeros, measured.entries + entries
        measured.squares[name], measured.ranks[name] = square, None
    return dots
