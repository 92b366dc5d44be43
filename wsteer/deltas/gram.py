"""Dot products of deltas, in float64: sums over parameters from which norms, cosines and their noise follow.

The noise floor of a cosine, on which monitoring rests, is defined here: see `parameter_sums`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from wsteer.deltas.rankspace import RankSpace, pair_sums, rank_spaces
from wsteer.deltas.terms import Dense, LowRank, Term, Terms, is_low_rank, read_factor, source_key
from wsteer.errors import WsteerError
from wsteer.files.tensors import row_blocks
from wsteer.progress import Progress, silent
from wsteer.workers import in_order


@dataclass(frozen=True)
class Sums:
    """Sums over parameters for pairs (i, j) of n deltas, j among the first `columns`: float64 [n, columns].

    `dots`: ⟨i, j⟩. `squares` and `column_squares`: the squared norms of i, and of j, over the parameters that both
    change. `variances`: the variance of ⟨i, j⟩ if both were noise of these norms (see `parameter_sums`). `overlaps`,
    `likenesses`, `chances`: as in `PairSums`, summed over the parameters where both are low-rank; `modules` counts
    those. `whole` [n]: squared norms over all parameters.
    """

    dots: Tensor
    squares: Tensor
    column_squares: Tensor
    variances: Tensor
    overlaps: Tensor
    likenesses: Tensor
    chances: Tensor
    modules: Tensor
    whole: Tensor

    @staticmethod
    def zeros(n: int, columns: int) -> "Sums":
        """Sums of zero, to add to."""
        matrices = [field.name for field in fields(Sums) if field.name != "whole"]
        empty = {name: torch.zeros(n, columns, dtype=torch.float64) for name in matrices}
        return Sums(**empty, whole=torch.zeros(n, dtype=torch.float64))

    def between(self, rows: Sequence[int], columns: Sequence[int]) -> "Sums":
        """The sums of the deltas at the indices `rows` with those at `columns`, which are among the first ones."""
        down = torch.tensor(rows)
        where = (down[:, None], torch.tensor(columns))
        taken = {field.name: getattr(self, field.name)[where] for field in fields(self) if field.name != "whole"}
        return Sums(**taken, whole=self.whole[down])

    def add(self, other: "Sums") -> None:
        """Add another group's sums to these."""
        for field in fields(self):
            getattr(self, field.name).add_(getattr(other, field.name))


def gram(deltas: Sequence[Mapping[str, Terms]]) -> list[list[float]]:
    """All dot products between the deltas, in float64: a symmetric matrix, squared norms on its diagonal."""
    return grouped_sums(deltas, len(deltas), lambda name: "")[""].dots.tolist()


def grouped_sums(
    deltas: Sequence[Mapping[str, Terms]],
    columns: int,
    group: Callable[[str], str],
    progress: Progress = silent,
    device: str = "cpu",
) -> dict[str, Sums]:
    """The sums for every delta with each of the first `columns`, for each group that `group` gives a parameter's name.

    Each delta is a mapping from the parameters that it changes to their terms.

    Low-rank changes are compared in rank space; no dense matrix is formed for them. Dense ones are streamed in row
    blocks. Each file is read once for all pairs. `device` is where the products are taken, one that has float64; the
    sums are on the CPU. Raises WsteerError if shapes differ.
    """
    names = sorted({name for delta in deltas for name in delta})
    for name in names:
        shapes = sorted({delta[name][0][1].shape for delta in deltas if name in delta})
        if len(shapes) > 1:
            raise WsteerError(
                f"{name} has different shapes in the deltas compared: {shapes}; compare deltas of one model"
            )
    totals = {group(name): Sums.zeros(len(deltas), columns) for name in names or [""]}
    parts = in_order(
        lambda name: parameter_sums(name, [delta.get(name, ()) for delta in deltas], columns, device), names
    )
    for name, part in zip(progress(names, "compare"), parts, strict=True):
        totals[group(name)].add(part)
    for total in totals.values():
        square = total.dots[:columns]
        square.copy_((square + square.T) / 2)  # ⟨i, j⟩ and ⟨j, i⟩ were summed in different orders
    return totals


def cosine_from_gram(dots: Sequence[Sequence[float]], i: int, j: int) -> float:
    """The cosine of deltas i and j from their `gram`; a norm that is zero or not finite is an error."""
    if not (0 < dots[i][i] < float("inf") and 0 < dots[j][j] < float("inf")):
        raise WsteerError("a delta whose norm is 0 or not finite has no direction, so its cosine is undefined")
    if i == j:
        return 1.0
    return max(-1.0, min(1.0, dots[i][j] / (dots[i][i] * dots[j][j]) ** 0.5))


def parameter_sums(name: str, vectors: Sequence[Terms], columns: int, device: str = "cpu") -> Sums:
    """The sums over one parameter; each change is a sum of terms (no terms: no change). Products are on `device`.

    The noise floor. Noise is a random change with the same norm: of a low-rank change B is random and A is kept; of a
    dense one all entries are random. Its rows are independent, with the covariance C = AᵀA·‖i‖²/(rows·‖A‖²); for a
    dense one C is a multiple of the identity. ⟨i, j⟩ then has the mean 0 and the variance rows·tr(Cᵢ Cⱼ). For two
    low-rank changes that is ‖i‖²‖j‖²·a/rows with their alignment (see `PairSums`) a = ‖Aᵢ Aⱼᵀ‖²/(‖Aᵢ‖²‖Aⱼ‖²), for other
    pairs ‖i‖²‖j‖²/size. The floor of a cosine, in `monitoring.similarity`, is the root of the summed variances, divided
    by the norms.
    """
    present = [i for i, vector in enumerate(vectors) if vector]
    low_rank = {i: vector for i, vector in enumerate(vectors) if vector and is_low_rank(vector)}
    dense = [i for i in present if i not in low_rank]
    spaces = dict(zip(low_rank, rank_spaces(name, list(low_rank.values()), device), strict=True)) if low_rank else {}
    sums = Sums.zeros(len(vectors), columns)
    size = max(1, math.prod(vectors[present[0]][0][1].shape))
    inverse_size = torch.full_like(sums.dots, 1 / size)  # [n, columns]: the variance over ‖i‖²‖j‖²
    if low_rank:
        _add_low_rank(sums, spaces, columns, inverse_size)
    if dense:
        _add_dense(sums, [vectors[i] for i in dense], dense, spaces, device)
    own = sums.whole  # [n]
    both = (own > 0).double()  # [n]: 1 where the parameter is changed; a frozen one is in a checkpoint, but is not
    sums.squares.copy_((own * both)[:, None] * both[:columns])
    sums.column_squares.copy_(both[:, None] * own[:columns])
    sums.variances.copy_(own[:, None] * own[:columns] * inverse_size)
    return sums


def _add_low_rank(sums: Sums, spaces: dict[int, RankSpace], columns: int, inverse_size: Tensor) -> None:
    """Add the pairs of low-rank changes; the keys of `spaces` are their indices."""
    down = list(spaces)
    across = [i for i in down if i < columns]
    pairs = pair_sums(list(spaces.values()), len(across))  # each [low-rank, low-rank columns]
    into, at = torch.tensor(down), torch.tensor(across, dtype=torch.int64)
    where = (into[:, None], at)
    sums.dots[where] = pairs.dots.cpu()
    sums.overlaps[where] = pairs.overlaps.cpu()
    sums.modules[where] = 1.0
    sums.likenesses[where] = pairs.likenesses.cpu()
    sums.chances[where] = pairs.chances.cpu()
    inverse_size[where] = pairs.alignments.cpu() / spaces[down[0]].B.shape[0]
    sums.whole[into] = torch.stack([space.square for space in spaces.values()]).cpu()


def _add_dense(
    sums: Sums, vectors: Sequence[Terms], at: Sequence[int], spaces: dict[int, RankSpace], device: str
) -> None:
    """Stream the dense changes, whose indices are `at`, once: against each other and against the low-rank ones."""
    terms, coefficients = distinct(vectors)  # [dense, terms]
    plain = torch.equal(coefficients, torch.eye(len(terms), dtype=torch.float64))
    sources = TermRows(terms, torch.float64, device)
    coefficients = coefficients.to(device)
    dots = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=device)
    mixed = torch.zeros(len(vectors), len(spaces), dtype=torch.float64, device=device)
    blocks = list(row_blocks(terms[0].shape))
    width = math.prod(terms[0].shape[1:])
    buffer = torch.empty(len(terms), blocks[0][1] * width if blocks else 0, dtype=torch.float64, device=device)
    for start, stop in blocks:
        block = buffer[:, : (stop - start) * width]  # a term's rows flattened, [terms, rows · width]
        for flat, rows in zip(block, sources.rows(start, stop), strict=True):
            flat.copy_(rows.flatten())
        block = block if plain else coefficients @ block  # [dense, rows · width]
        dots += block @ block.T
        for j, space in enumerate(spaces.values()):
            mixed[:, j] += _with_low_rank(block.view(len(vectors), stop - start, -1), space, start, stop)
    dots, mixed = dots.cpu(), mixed.cpu()
    sums.whole[torch.tensor(at)] = dots.diagonal()
    low_rank = list(spaces)
    for down, across, values in ((at, at, dots), (at, low_rank, mixed), (low_rank, at, mixed.T)):
        for index, column in enumerate(across):
            if column < sums.dots.shape[1]:
                sums.dots[list(down), column] = values[:, index]


def _with_low_rank(block: Tensor, space: RankSpace, start: int, stop: int) -> Tensor:
    """⟨D, Y Qᵀ⟩ over rows `start` to `stop` of each dense change D [changes, rows, columns]: [changes]."""
    if space.transposed:
        return ((block.mT @ space.Q[start:stop]) * space.rows(slice(None))).sum(dim=(1, 2))
    return ((block @ space.Q) * space.rows(slice(start, stop))).sum(dim=(1, 2))


def low_rank_gram(factors: Sequence[tuple[Tensor, Tensor]], coefficients: Tensor) -> Tensor:
    """Dot products of the sums Σ cᵢⱼ BⱼAⱼ, float64 [n, n]: by QR of all B and of all Aᵀ each product is a small core.

    Differences are taken between cores, so norms stay exact where the products nearly cancel (notes: fp64 QR). Faster
    than `pair_sums` if the sums share terms, as a difference and its two sides do.
    """
    r_b = torch.linalg.qr(torch.cat([b for b, _ in factors], dim=1).double(), mode="r").R  # [≤ out, Σ ranks]
    r_a = torch.linalg.qr(torch.cat([a for _, a in factors], dim=0).double().T, mode="r").R  # [≤ in, Σ ranks]
    ranks = [b.shape[1] for b, _ in factors]
    pairs = zip(r_b.split(ranks, dim=1), r_a.split(ranks, dim=1), strict=True)
    cores = torch.stack([(left @ right.T).flatten() for left, right in pairs])  # a term's core flattened, [terms, core]
    sums = coefficients @ cores  # [n, core]
    return sums @ sums.T


def distinct(vectors: Sequence[Terms]) -> tuple[list[Term], Tensor]:
    """The different terms of several sums, and the sums as a matrix of coefficients: float64 [sums, terms].

    So a term that several sums share, such as the base in two task vectors, is read and computed once.
    """
    terms: dict[object, Term] = {}
    for vector in vectors:
        terms.update({source_key(term): term for _, term in vector})
    indices = {key: index for index, key in enumerate(terms)}
    coefficients = torch.zeros(len(vectors), len(terms), dtype=torch.float64)
    for i, vector in enumerate(vectors):
        for scale, term in vector:
            coefficients[i, indices[source_key(term)]] += scale
    return list(terms.values()), coefficients


class TermRows:
    """The rows of several terms, block by block; factors are held on `device`, and products computed in `dtype`."""

    def __init__(self, terms: Sequence[Term], dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.shape = terms[0].shape
        self._sources: list[tuple[Tensor, Tensor] | Dense] = [
            (read_factor(term.lora_B).to(device, dtype), read_factor(term.lora_A).to(device, dtype))
            if isinstance(term, LowRank)
            else term
            for term in terms
        ]

    def rows(self, start: int, stop: int) -> list[Tensor]:
        """Rows `start` to `stop` of each term: float32, or float64 if the term is computed or stored in it."""
        return [
            source.rows(start, stop) if isinstance(source, Dense) else source[0][start:stop] @ source[1]
            for source in self._sources
        ]
