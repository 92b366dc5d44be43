"""The closest change of a given rank, and what it leaves: exact from factors, by randomised passes of dense changes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wsteer.deltas.rankspace import NEGLIGIBLE
from wsteer.files.tensors import row_blocks

OVERSAMPLING = 10  # extra directions, and passes that sharpen them (Halko, Martinsson and Tropp 2011, sections 4.3-4.5)
POWER_PASSES = 2


@dataclass(frozen=True)
class Truncated:
    """The factors lora_B [out, r] and lora_A [r, in] (float32), and the squared norms before and after."""

    lora_B: Tensor
    lora_A: Tensor
    total: float
    kept: float


def truncate_factors(lora_B: Tensor, lora_A: Tensor, rank: int) -> Truncated:
    """The best approximation of lora_B @ lora_A of this rank, by QR of the factors and SVD of the core, in float64."""
    u, singular, v = _decomposed(lora_B, lora_A)
    return _balanced(u, singular, v, slice(rank), float((singular**2).sum()))


def remaining_factors(lora_B: Tensor, lora_A: Tensor, rank: int) -> Truncated | None:
    """What that approximation leaves: the other components of the same decomposition; None if they are rounding."""
    u, singular, v = _decomposed(lora_B, lora_A)
    if not (singular[rank:] > NEGLIGIBLE * singular[:1]).any():
        return None
    return _balanced(u, singular, v, slice(rank, None), float((singular**2).sum()))


def _decomposed(lora_B: Tensor, lora_A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, singular values and V of lora_B @ lora_A, of which no matrix is formed; float64."""
    q_b, r_b = torch.linalg.qr(lora_B.double())
    q_a, r_a = torch.linalg.qr(lora_A.double().T)
    u, singular, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, singular, v @ q_a.T


def truncate_rows(rows: Callable[[int, int], Tensor], shape: tuple[int, int], rank: int, name: str) -> Truncated | None:
    """A near-best approximation of this rank of a dense matrix whose rows `rows(start, stop)` gives; None for zero.

    Randomised SVD with power passes, from a seed that is the parameter's name: the same input gives the same factors.
    The matrix is streamed, never held; float64.
    """
    width = min(rank + OVERSAMPLING, *shape)
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(shape[1], width, generator=generator, dtype=torch.float64)
    total = 0.0
    for last in [False] * POWER_PASSES + [True]:
        image = torch.empty(shape[0], width, dtype=torch.float64)
        total = 0.0
        for start, stop in row_blocks(shape):
            block = rows(start, stop).double()
            image[start:stop] = block @ probe
            total += float((block * block).sum())
        if total == 0:
            return None
        q = torch.linalg.qr(image).Q
        back = torch.zeros(width, shape[1], dtype=torch.float64)
        for start, stop in row_blocks(shape):
            back += q[start:stop].T @ rows(start, stop).double()
        if not last:
            probe = torch.linalg.qr(back.T).Q
    u, singular, v = torch.linalg.svd(back, full_matrices=False)
    return _balanced(q @ u, singular, v, slice(rank), total)


def _balanced(u: Tensor, singular: Tensor, v: Tensor, kept: slice, total: float) -> Truncated:
    """Each factor takes the root of the singular values, so neither loses precision by the other's scale."""
    root = singular[kept].sqrt()
    lora_B, lora_A = (u[:, kept] * root).float(), (root[:, None] * v[kept]).float()
    return Truncated(lora_B.contiguous(), lora_A.contiguous(), total, float((singular[kept] ** 2).sum()))
