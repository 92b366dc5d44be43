"""Dot products of deltas, in float64: the matrix of all pairs, from which norms and cosines follow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.progress import Track, silent
from wsteer.tensorfile import row_blocks
from wsteer.terms import Term, Terms, read_factor, source_key
from wsteer.workers import in_order

if TYPE_CHECKING:
    from wsteer.delta import Delta


def gram(deltas: Sequence["Delta"], track: Track = silent) -> list[list[float]]:
    """All dot products between the deltas, in float64: a symmetric matrix, squared norms on its diagonal.

    Parameters where every delta is low-rank are compared in rank space, by the QR of the factors; a dense matrix
    is never formed for them. Others are streamed in row blocks, each file read once.
    """
    names = sorted({name for delta in deltas for name in delta.terms})
    for name in names:
        shapes = sorted({delta.shape(name) for delta in deltas if name in delta.terms})
        if len(shapes) > 1:
            raise WsteerError(
                f"{name} has different shapes in the deltas compared: {shapes}; compare deltas of one model"
            )
    parts = in_order(lambda name: parameter_gram([delta.terms.get(name, ()) for delta in deltas]), names)
    total = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    for _, part in zip(track(names, "compare"), parts, strict=True):
        total += part
    return total.tolist()


def cosine_from_gram(dots: Sequence[Sequence[float]], i: int, j: int) -> float:
    """The cosine of deltas i and j out of their `gram`; zero norms are an error."""
    if not (0 < dots[i][i] < float("inf") and 0 < dots[j][j] < float("inf")):
        raise WsteerError("a delta whose norm is 0 or not finite has no direction, so its cosine is undefined")
    if i == j:
        return 1.0
    return max(-1.0, min(1.0, dots[i][j] / (dots[i][i] * dots[j][j]) ** 0.5))


def parameter_gram(vectors: Sequence[Terms]) -> Tensor:
    """The dot products of changes of one parameter, each a sum of terms (an empty one is zero): float64 [n, n]."""
    terms, coefficients = distinct(vectors)
    if all(hasattr(term, "lora_A") for term in terms):
        return low_rank_gram([(read_factor(term.lora_B), read_factor(term.lora_A)) for term in terms], coefficients)
    dots = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    sources = TermRows(terms)
    for start, stop in row_blocks(terms[0].shape):
        block = coefficients @ torch.stack([rows.double().flatten() for rows in sources.rows(start, stop)])
        dots += block @ block.T
    return dots


def distinct(vectors: Sequence[Terms]) -> tuple[list[Term], Tensor]:
    """The different terms of several sums, and the sums as a matrix of coefficients: float64 [sums, terms].

    A term that several sums share, such as the base in two task vectors, is then read and computed once.
    """
    terms: dict[object, Term] = {}
    for vector in vectors:
        terms.update({source_key(term): term for _, term in vector})
    positions = {key: position for position, key in enumerate(terms)}
    coefficients = torch.zeros(len(vectors), len(terms), dtype=torch.float64)
    for i, vector in enumerate(vectors):
        for scale, term in vector:
            coefficients[i, positions[source_key(term)]] += scale
    return list(terms.values()), coefficients


def low_rank_gram(factors: Sequence[tuple[Tensor, Tensor]], coefficients: Tensor) -> Tensor:
    """Dots of the sums Σ cᵢⱼ BⱼAⱼ: with the QR of all B beside each other and of all Aᵀ, each product is a small core.

    Differences are taken between cores, so that norms stay exact where the products nearly cancel (notes: fp64 QR).
    """
    r_b = torch.linalg.qr(torch.cat([b for b, _ in factors], dim=1).double(), mode="r").R
    r_a = torch.linalg.qr(torch.cat([a for _, a in factors], dim=0).double().T, mode="r").R
    ranks = [b.shape[1] for b, _ in factors]
    pairs = zip(r_b.split(ranks, dim=1), r_a.split(ranks, dim=1), strict=True)
    cores = torch.stack([(left @ right.T).flatten() for left, right in pairs])
    sums = coefficients @ cores
    return sums @ sums.T


class TermRows:
    """The rows of several terms, block by block, factors held in memory."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.factors = [
            (read_factor(term.lora_B), read_factor(term.lora_A)) if hasattr(term, "lora_A") else None for term in terms
        ]
        self.terms = terms

    def rows(self, start: int, stop: int) -> list[Tensor]:
        """Rows `start` to `stop` of each term: float32, float64 where it is computed or stored so."""
        return [
            term.rows(start, stop) if pair is None else pair[0][start:stop] @ pair[1]
            for term, pair in zip(self.terms, self.factors, strict=True)
        ]
