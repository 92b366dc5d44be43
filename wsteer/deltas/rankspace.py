"""Low-rank changes of one parameter compared in rank space, in float64; no matrix of full size is formed."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsteer.checkpoints.names import CONV1D_NAMES
from wsteer.deltas.terms import LowRank, LowRankTerms, Transposed, read_factor, source_key
from wsteer.errors import WsteerError
from wsteer.files.tensors import TensorEntry

# singular values of A below this share of the largest come from float64's rounding; differences between float32
# factors are larger
NEGLIGIBLE = 1e-13
ROWS = 512  # rows of Q and Y in memory at once, for all changes
COLUMNS = 512  # columns of a Gram matrix computed at once
_TINY = torch.finfo(torch.float64).tiny  # replaces a zero divisor: an A of zeros changes nothing

_LINALG = threading.Lock()  # torch loads CUDA's at the first use, and fails where two threads come at once


@dataclass(frozen=True)
class RankSpace:
    """A change `B A` [out, in] as `Y Qᵀ`, with Y = B·P: Q [in, r] has orthonormal columns that span A's rows.

    `scales` [r] are A's singular values along these columns. B is float32 as stored, the rest float64. Large columns of
    B that nearly cancel already cancel in Y, so small differences of large products keep their digits. `transposed`:
    the parameter is the transpose, [in, out]. All are on one device.
    """

    B: Tensor
    P: Tensor
    Q: Tensor
    scales: Tensor
    transposed: bool = False

    @staticmethod
    def of(
        lora_B: Tensor, lora_A: Tensor, weights: Tensor, transposed: bool = False, device: str = "cpu"
    ) -> "RankSpace":
        """The change Σ wᵢ·B[:, i] A[i, :], with one weight for each row of A, on `device`."""
        if not lora_A.isfinite().all():
            raise WsteerError("a factor holds NaN or infinity; the training run diverged")
        # A = rᵀqᵀ: q [in, s], r [s, rows of A], s the smaller of the two
        with _LINALG if device != "cpu" else contextlib.nullcontext():
            q, r = torch.linalg.qr(lora_A.to(device).double().T)
        u, scales, v = torch.linalg.svd(r.cpu(), full_matrices=False)  # r = u diag(scales) v; small, so on the CPU
        kept = scales > NEGLIGIBLE * scales[0]  # as many as A's rank
        P = weights[:, None] * (v.T * scales)[:, kept]  # [rows of A, r]: B diag(w) A = (B P) Qᵀ
        span = q @ u[:, kept].to(device)
        return RankSpace(lora_B.to(device), P.to(device), span, scales[kept].to(device), transposed)

    def rows(self, rows: slice) -> Tensor:
        """Rows of Y: float64 [rows, r]."""
        return self.B[rows].double() @ self.P

    @property
    def square(self) -> Tensor:
        """The squared norm: ‖Y Qᵀ‖² = ‖Y‖², since Q is orthonormal."""
        return torch.stack([(self.rows(rows) ** 2).sum() for rows in _slices(self.B)]).sum()


@dataclass(frozen=True)
class PairSums:
    """Sums for pairs (i, j) of n changes, j among the first `columns`: float64 [n, columns].

    `dots`: ⟨i, j⟩. `overlaps`: the mean squared cosine of the principal angles between the row spaces of their A's
    (over the smaller rank). `alignments`: ‖Aᵢ Aⱼᵀ‖² / (‖Aᵢ‖² ‖Aⱼ‖²), which scales the noise of random B's.
    `likenesses`: the cosine between Aᵢᵀ Aᵢ and Aⱼᵀ Aⱼ; unlike the overlap it depends little on weak directions, such as
    the small difference between the A's of the two sides of a contrastive delta. `chances`: the likeness expected of
    independent A's.
    """

    dots: Tensor
    overlaps: Tensor
    alignments: Tensor
    likenesses: Tensor
    chances: Tensor


def rank_spaces(name: str, vectors: Sequence[LowRankTerms], device: str = "cpu") -> list[RankSpace]:
    """The changes of parameter `name`, each a sum of products; factors that several changes share are read once."""
    swapped = starts_from_columns(name, vectors)
    read = _factor_reader(vectors)
    spaces = []
    for vector in vectors:
        factors = [read(term) for _, term in vector]
        if swapped:
            factors = [(a.T, b.T) for b, a in factors]
        weights = [
            scale for (scale, _), (_, a) in zip(vector, factors, strict=True) for _ in a
        ]  # one for each row of A
        lora_B, lora_A = torch.cat([b for b, _ in factors], dim=1), torch.cat([a for _, a in factors])
        spaces.append(RankSpace.of(lora_B, lora_A, torch.tensor(weights, dtype=torch.float64), swapped, device))
    return spaces


def starts_from_columns(name: str, vectors: Sequence[LowRankTerms]) -> bool:
    """Whether A, the factor that starts at random, is on the left, as in layers that store [in, out] (Conv1D).

    An adapter's terms show it; for a delta file only the name does.
    """
    if not CONV1D_NAMES.search(name.removesuffix(".weight")):
        return False
    left = [term.lora_B for vector in vectors for _, term in vector]
    straight = any(isinstance(factor, TensorEntry) and factor.name.endswith(".weight") for factor in left)
    return not straight or any(isinstance(factor, Transposed) for factor in left)


def _factor_reader(vectors: Sequence[LowRankTerms]) -> Callable[[LowRank], tuple[Tensor, Tensor]]:
    """A function that reads (lora_B, lora_A) of a term, float32; a pair that occurs several times is read once."""
    counts = Counter(source_key(term) for vector in vectors for _, term in vector)
    known: dict[object, tuple[Tensor, Tensor]] = {}

    def read(term: LowRank) -> tuple[Tensor, Tensor]:
        key = source_key(term)
        if key in known:
            return known[key]
        factors = (read_factor(term.lora_B), read_factor(term.lora_A))
        if counts[key] > 1:
            known[key] = factors
        return factors

    return read


def pair_sums(spaces: Sequence[RankSpace], columns: int) -> PairSums:
    """The sums for all pairs, on the device of the changes, from one Gram matrix of all Q and one of all Y.

    ⟨Yᵢ Qᵢᵀ, Yⱼ Qⱼᵀ⟩ = Σ (Yᵢᵀ Yⱼ) ∘ (Qᵢᵀ Qⱼ), the blocks of two Gram matrices multiplied entry by entry. Likewise the
    squared cosines of the principal angles of row spaces sum up to ‖Qᵢᵀ Qⱼ‖² (Björck and Golub 1973), and Aᵢ Aⱼᵀ has
    the norm of diag(sᵢ) Qᵢᵀ Qⱼ diag(sⱼ).
    """
    ranks, device = [len(space.scales) for space in spaces], spaces[0].Q.device
    width = sum(ranks[:columns])
    total = sum(ranks)
    # both [total, width]: the block of changes i and j is Qᵢᵀ Qⱼ in q, Yᵢᵀ Yⱼ in y
    stacked_q = (torch.cat([space.Q[rows] for space in spaces], dim=1) for rows in _slices(spaces[0].Q))
    stacked_y = (torch.cat([space.rows(rows) for space in spaces], dim=1) for rows in _slices(spaces[0].B))
    q, y = (cross(blocks, total, width, device) for blocks in (stacked_q, stacked_y))
    dots = block_sums(y.mul_(q), ranks, columns)  # [n, columns], like all that follow
    q.square_()
    heights = torch.tensor(ranks, device=device)
    smaller = torch.minimum(heights[:, None], heights[:columns])
    overlaps = block_sums(q, ranks, columns) / smaller.clamp(min=1)
    squares = torch.cat([space.scales for space in spaces]) ** 2  # [total]
    q.mul_(squares[:, None]).mul_(squares[:width])  # its blocks now sum up to ‖Aᵢ Aⱼᵀ‖²
    energies = torch.stack([(space.scales**2).sum() for space in spaces])  # [n]: ‖Aᵢ‖²
    products = (energies[:, None] * energies[:columns]).clamp(min=_TINY)
    alignments = block_sums(q, ranks, columns) / products
    # ‖AᵀA‖ / ‖A‖²: 1/√r where A's rows are orthogonal and equally long
    concentrations = torch.stack([(space.scales**4).sum().sqrt() for space in spaces]) / energies.clamp(min=_TINY)
    scale = (concentrations[:, None] * concentrations[:columns]).clamp(min=_TINY)
    likenesses, chances = alignments / scale, 1 / (spaces[0].Q.shape[0] * scale)
    return PairSums(dots, overlaps, alignments, likenesses, chances)


def _slices(matrix: Tensor) -> Iterator[slice]:
    for start in range(0, matrix.shape[0], ROWS):
        yield slice(start, min(start + ROWS, matrix.shape[0]))


def cross(blocks: Iterable[Tensor], n: int, width: int, device: torch.device) -> Tensor:
    """Σ Xᵀ X[:, :width] over blocks X [rows, n]: [n, width]. Only the lower half of the symmetric part is computed."""
    total = torch.zeros(n, width, dtype=torch.float64, device=device)
    chunks = [(start, min(start + COLUMNS, width)) for start in range(0, width, COLUMNS)]
    for block in blocks:
        for start, stop in chunks:
            total[start:, start:stop].addmm_(block[:, start:].T, block[:, start:stop])
    for start, stop in chunks:
        total[start:stop, stop:] = total[stop:width, start:stop].T
    return total


def block_sums(matrix: Tensor, ranks: Sequence[int], columns: int) -> Tensor:
    """The sum of each block of a matrix; `ranks` are the blocks' heights, the first `columns` of them the widths."""
    n = len(ranks)
    # [Σ ranks]: the block of each row or column
    owner = torch.repeat_interleave(torch.arange(n), torch.tensor(ranks)).to(matrix.device)
    by_row = matrix.new_zeros(n, matrix.shape[1]).index_add_(0, owner, matrix)
    return matrix.new_zeros(n, columns).index_add_(1, owner[: matrix.shape[1]], by_row)
