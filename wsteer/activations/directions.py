"""The rows' mean activations -> one vector for each decoder block, and what tells whether the rows suffice for it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

METHODS = ("mean", "pca")

# batches of rows: their indices, and their means float64 [blocks, rows, hidden]
Means = Iterable[tuple[list[int], Tensor]]


@dataclass(frozen=True, eq=False)
class Directions:
    """A vector for each block, float64 [blocks, hidden].

    `residual` is the mean output of each block over both sides, each of which counts half. `halves` [2, blocks, hidden]
    are the vectors of the rows of even and of odd index; None where a side has one row alone. `explained` [blocks] is
    the share of the differences' squared norms that lies along the vector, for `pca`.
    """

    vectors: Tensor
    residual: Tensor
    halves: Tensor | None
    explained: Tensor | None = None

    @property
    def half_cosines(self) -> tuple[float | None, ...] | None:
        """By block the cosine between the vectors of both halves of the rows; None where one of them is zero."""
        if self.halves is None:
            return None
        norms = self.halves.norm(dim=-1).prod(dim=0)
        dots = self.halves.prod(dim=0).sum(dim=-1)
        return tuple(
            float((dot / norm).clamp(-1, 1)) if norm > 0 else None for dot, norm in zip(dots, norms, strict=True)
        )


def mean_directions(pos: Means, neg: Means, rows_pos: int, rows_neg: int) -> Directions:
    """The mean over pos minus the mean over neg (the paper's, and persona vectors')."""
    sides = [(_half_sums(means), rows) for means, rows in ((pos, rows_pos), (neg, rows_neg))]
    whole = [sums.sum(dim=0) / rows for sums, rows in sides]
    halves = None
    if min(rows_pos, rows_neg) > 1:
        # of an odd number of rows, the half of even indices has one more
        counts = [torch.tensor([rows - rows // 2, rows // 2])[:, None, None] for _, rows in sides]
        of_pos, of_neg = (sums / count for (sums, _), count in zip(sides, counts, strict=True))
        halves = of_pos - of_neg
    return Directions(whole[0] - whole[1], (whole[0] + whole[1]) / 2, halves)


def _half_sums(means: Means) -> Tensor:
    """The sums over the rows of even and of odd index: float64 [2, blocks, hidden]."""
    sums = torch.zeros((), dtype=torch.float64)
    for indices, found in means:
        odd = torch.tensor(indices) % 2 == 1
        sums = sums + torch.stack([found[:, ~odd].sum(dim=1), found[:, odd].sum(dim=1)])
    return sums


def pca_directions(pos: Means, neg: Means, pairs: int) -> Directions:
    """The first principal direction of the differences pos - neg of paired rows, not centred, in mean's units.

    Centred differences, as repeng's pca_diff takes them, lack the mean difference, and with it most of what the sides
    differ in (notes: activations C). The vector is the mean difference's projection on the direction: it points to pos,
    and k means as much as it does for `mean`. All differences are in memory: 8 bytes for each pair, block and
    dimension, 1 GB for 1000 pairs and 32 blocks of 4096 dimensions.
    """
    differences, total = torch.zeros(()), torch.zeros(())
    for sign, side in ((1, pos), (-1, neg)):
        for indices, found in side:
            if not differences.dim():
                blocks, _, hidden = found.shape
                differences = torch.zeros(blocks, pairs, hidden, dtype=torch.float64)
                total = torch.zeros(blocks, hidden, dtype=torch.float64)
            differences[:, indices] += sign * found
            total += found.sum(dim=1)
    vectors, explained = _of_blocks(differences)
    halves = None
    if pairs > 1:
        halves = torch.stack([_of_blocks(differences[:, start::2])[0] for start in (0, 1)])
    return Directions(vectors, total / (2 * pairs), halves, explained)


def _of_blocks(differences: Tensor) -> tuple[Tensor, Tensor]:
    """Each block's vector [blocks, hidden] for differences [blocks, pairs, hidden], and what it explains [blocks]."""
    vectors, explained = zip(*map(principal, differences), strict=True)
    return torch.stack(vectors), torch.stack(explained)


def principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean row [hidden] projected on the rows' first right singular vector, and its share of their squared norms.

    By the smaller of the Gram matrices of `rows`, float64 [rows, hidden]; zeros if all are zero.
    """
    few = rows.shape[0] <= rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    direction = rows.T @ vectors[:, -1] if few else vectors[:, -1]
    norm, total = direction.norm(), values.clamp_min(0).sum()
    if not (norm > 0 and total > 0):
        return torch.zeros_like(rows[0]), torch.zeros((), dtype=rows.dtype)
    direction = direction / norm
    return direction * (direction @ rows.mean(dim=0)), values[-1] / total
