"""Dot products of deltas, in float64: the matrix of all pairs, from which norms and cosines follow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsteer.checkpoint import row_blocks
from wsteer.errors import WsteerError
from wsteer.progress import Track, silent

if TYPE_CHECKING:
    from wsteer.delta import Change, Delta


def gram(deltas: Sequence["Delta"], track: Track = silent) -> list[list[float]]:
    """All dot products between the deltas, in float64: a symmetric matrix, squared norms on its diagonal.

    Parameters where every delta is low-rank are compared in rank space, by the QR of the factors; a dense matrix
    is never formed for them. Others are streamed in row blocks, each file read once.
    """
    total = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    names = sorted({name for delta in deltas for name in delta.terms})
    for name in track(names, "compare"):
        present = [i for i, delta in enumerate(deltas) if name in delta.terms]
        if len({deltas[i].shape(name) for i in present}) > 1:
            shapes = sorted({deltas[i].shape(name) for i in present})
            raise WsteerError(
                f"{name} has different shapes in the deltas compared: {shapes}; compare deltas of one model"
            )
        changes = [deltas[i].change(name) for i in present]
        low_rank = all(deltas[i].is_low_rank(name) for i in present)
        part = _rank_space_gram(changes) if low_rank else _streamed_gram(changes)
        total[torch.tensor(present)[:, None], torch.tensor(present)] += part
    return total.tolist()


def cosine_from_gram(dots: Sequence[Sequence[float]], i: int, j: int) -> float:
    """The cosine of deltas i and j out of their `gram`; zero norms are an error."""
    if not (0 < dots[i][i] < float("inf") and 0 < dots[j][j] < float("inf")):
        raise WsteerError("a delta whose norm is 0 or not finite has no direction, so its cosine is undefined")
    if i == j:
        return 1.0
    return max(-1.0, min(1.0, dots[i][j] / (dots[i][i] * dots[j][j]) ** 0.5))


def _rank_space_gram(changes: Sequence["Change"]) -> Tensor:
    """Dots of `B_i A_i` through B = Q_B R_B, Aᵀ = Q_A R_A: <i, j> = <R_Bi R_Aiᵀ, Q_BiᵀQ_Bj R_Bj R_Ajᵀ Q_AjᵀQ_Ai>.

    The norms come from the cores alone, so that they stay exact where the terms nearly cancel (notes: fp64 QR).
    """
    cores = []
    for change in changes:
        q_b, r_b = torch.linalg.qr(change.factors[0].double())
        q_a, r_a = torch.linalg.qr(change.factors[1].double().T)
        cores.append((q_b, r_b @ r_a.T, q_a))
    dots = torch.zeros(len(cores), len(cores), dtype=torch.float64)
    for i, (q_b, core, q_a) in enumerate(cores):
        dots[i, i] = (core * core).sum()
        for j, (other_q_b, other_core, other_q_a) in enumerate(cores[:i]):
            projected = (q_b.T @ other_q_b) @ other_core @ (other_q_a.T @ q_a)
            dots[i, j] = dots[j, i] = (core * projected).sum()
    return dots


def _streamed_gram(changes: Sequence["Change"]) -> Tensor:
    dots = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for start, stop in row_blocks(changes[0].shape):
        block = torch.stack([change.rows(start, stop).double().flatten() for change in changes])
        dots += block @ block.T
    return dots
