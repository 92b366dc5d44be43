"""The closest change of a given rank: exact from factors, by randomised passes over the rows of a dense change."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
    q_b, r_b = torch.linalg.qr(lora_B.double())
    q_a, r_a = torch.linalg.qr(lora_A.double().T)
    u, singular, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _balanced(q_b @ u, singular, v @ q_a.T, rank, float((singular**2).sum()))


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
    return _balanced(q @ u, singular, v, rank, total)


def _balanced(u: Tensor, singular: Tensor, v: Tensor, rank: int, total: float) -> Truncated:
    """Each factor takes the root of the singular values, so neither loses precision by the other's scale."""
    root = singular[:rank].sqrt()
    lora_B, lora_A = (u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float()
    return Truncated(lora_B.contiguous(), lora_A.contiguous(), total, float((singular[:rank] ** 2).sum()))
