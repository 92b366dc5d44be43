"""Write a delta and measure it in the same pass over its inputs: dots with both sides, energy by parameter."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from wsteer.checkpoints.names import layer_of
from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import TermRows, distinct, low_rank_gram
from wsteer.deltas.terms import LowRank, is_low_rank, read_factor
from wsteer.deltas.truncation import truncate_factors, truncate_rows
from wsteer.files.tensors import TensorWriter, row_blocks
from wsteer.progress import Track
from wsteer.workers import in_order


@dataclass
class Measured:
    """Sums over a delta as it is written.

    `dots` [n, n]: the dot products of the delta (first) and the sides. `squares` and `ranks` (None for a dense one) are
    those of the parameters written. `zeros` of `entries` are the zeros of the dense ones among them.
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
        """The share of the squared norm in each group of parameters."""
        total = self.written
        sums: dict[str, float] = {}
        for name in sorted(self.squares, key=lambda name: (layer_of(name) is None, layer_of(name) or 0, name)):
            sums[group(name)] = sums.get(group(name), 0.0) + self.squares[name]
        return {key: value / total for key, value in sums.items()} if total else {}

    @staticmethod
    def layer_name(name: str) -> str:
        """The decoder block of a parameter, `other` outside of them."""
        layer = layer_of(name)
        return "other" if layer is None else str(layer)

    @staticmethod
    def module_name(name: str) -> str:
        """The last module of a parameter's name, with `.bias` for biases: `q_proj`, `down_proj.bias`."""
        if re.fullmatch(r"blocks\.\d+", name):
            return "residual stream"
        module, _, leaf = name.rpartition(".")
        return (module.rpartition(".")[2] or leaf) + (".bias" if leaf == "bias" else "")


@dataclass(frozen=True)
class _Part:
    """A piece of one parameter: what is written of it and what it adds to the sums."""

    name: str
    dots: Tensor
    factors: tuple[Tensor, Tensor] | None = None
    rows: Tensor | None = None
    square: float = 0.0
    zeros: int = 0


def write_measured(
    path: Path,
    vectors: Sequence[Delta],
    rank: int | None,
    described: Delta,
    sources: Callable[[], tuple[dict[str, object], ...]],
    track: Track,
) -> Measured:
    """Write `vectors[0]` to `path`, truncated to `rank` where one is given, and measure it against the others.

    `described` is the delta with sources of the right length; `sources` gives them when the writing is done. Each input
    is read once. Dense parameters that turn out to be zero are left out.
    """
    delta = vectors[0]
    shapes = _shapes(delta, rank)
    measured = Measured([[0.0] * len(vectors) for _ in vectors], truncated=rank is not None)
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    with TensorWriter(path, shapes, described.info()) as writer:
        parts = in_order(lambda job: job(), _jobs(vectors, rank, track))
        for name, own in _by_parameter(parts):
            added = _write_parameter(writer, name, own, measured)
            total += added
            if measured.ranks.get(name, 0) is None and rank is not None:
                measured.not_truncated += 1
        measured.dots = total.tolist()
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


def _jobs(vectors: Sequence[Delta], rank: int | None, track: Track) -> Iterator[Callable[[], _Part]]:
    delta = vectors[0]
    for name in track(sorted(delta.terms), "write"):
        sums = [vector.terms.get(name, ()) for vector in vectors]
        terms, coefficients = distinct(sums)
        if all(is_low_rank(each) for each in sums):
            yield _job(_low_rank_part, name, terms, coefficients, rank)
            continue
        sources = TermRows(terms)
        if rank is not None and len(delta.shape(name)) == 2:
            yield _job(_truncated_part, name, sources, coefficients, rank)
            continue
        for start, stop in row_blocks(delta.shape(name)):
            yield _job(_dense_part, name, sources, coefficients, start, stop)


def _job(function: Callable[..., _Part], *arguments: object) -> Callable[[], _Part]:
    return lambda: function(*arguments)


def _low_rank_part(name: str, terms: Sequence[LowRank], coefficients: Tensor, rank: int | None) -> _Part:
    factors = [(read_factor(term.lora_B), read_factor(term.lora_A)) for term in terms]
    dots = low_rank_gram(factors, coefficients)
    used = [(float(scale), pair) for scale, pair in zip(coefficients[0], factors, strict=True) if scale != 0]
    lora_B = torch.cat([scale * b for scale, (b, _) in used], dim=1)
    lora_A = torch.cat([a for _, (_, a) in used], dim=0)
    if rank is None or rank >= lora_A.shape[0]:
        return _Part(name, dots, (lora_B, lora_A), square=float(dots[0, 0]))
    closest = truncate_factors(lora_B, lora_A, rank)
    return _Part(name, dots, (closest.lora_B, closest.lora_A), square=closest.kept)


def _dense_part(name: str, sources: TermRows, coefficients: Tensor, start: int, stop: int) -> _Part:
    blocks = sources.rows(start, stop)
    rows = _sum(blocks, coefficients[0])
    flat = torch.stack([block.double().flatten() for block in blocks])
    sums = coefficients @ flat
    sums[0] = rows.double().flatten()
    dots = sums @ sums.T
    return _Part(name, dots, rows=rows, square=float(dots[0, 0]), zeros=int((rows == 0).sum()))


def _truncated_part(name: str, sources: TermRows, coefficients: Tensor, rank: int) -> _Part:
    shape = sources.terms[0].shape
    dots = torch.zeros(len(coefficients), len(coefficients), dtype=torch.float64)
    for start, stop in row_blocks(shape):
        dots += _dense_part(name, sources, coefficients, start, stop).dots
    closest = truncate_rows(lambda start, stop: _sum(sources.rows(start, stop), coefficients[0]), shape, rank, name)
    if closest is None:
        return _Part(name, dots)
    return _Part(name, dots, (closest.lora_B, closest.lora_A), square=closest.kept)


def _sum(blocks: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Σ cⱼ·blockⱼ in the blocks' own precision: the difference of two stored tensors is rounded once."""
    used = [(float(scale), block) for scale, block in zip(coefficients, blocks, strict=True) if scale != 0]
    total = used[0][0] * used[0][1]
    for scale, block in used[1:]:
        total = total + scale * block
    return total


def _by_parameter(parts: Iterator[_Part]) -> Iterator[tuple[str, Iterator[_Part]]]:
    """The parts grouped by parameter, each group an iterator that must be used up before the next."""
    waiting: list[_Part] = [part] if (part := next(parts, None)) is not None else []

    def group(name: str) -> Iterator[_Part]:
        while waiting and waiting[0].name == name:
            yield waiting.pop()
            if (following := next(parts, None)) is not None:
                waiting.append(following)

    while waiting:
        name = waiting[0].name
        yield name, group(name)


def _write_parameter(writer: TensorWriter, name: str, parts: Iterator[_Part], measured: Measured) -> Tensor:
    """Write one parameter from its parts and count it; the dot products that it adds are returned."""
    first = next(parts)
    dots, square = first.dots, first.square
    if first.rows is None:
        for _ in parts:
            pass
        if first.factors is not None:
            lora_B, lora_A = first.factors
            writer.add(f"{name}.lora_A", [lora_A])
            writer.add(f"{name}.lora_B", [lora_B])
            measured.squares[name], measured.ranks[name] = square, lora_A.shape[0]
        return dots
    zeros, entries = first.zeros, first.rows.numel()

    def blocks() -> Iterator[Tensor]:
        nonlocal dots, square, zeros, entries
        yield first.rows
        for part in parts:
            dots, square = dots + part.dots, square + part.square
            zeros, entries = zeros + part.zeros, entries + part.rows.numel()
            yield part.rows

    writer.add(name, blocks())
    if zeros == entries:  # a frozen parameter
        writer.drop_last()
    else:
        measured.zeros, measured.entries = measured.zeros + zeros, measured.entries + entries
        measured.squares[name], measured.ranks[name] = square, None
    return dots
