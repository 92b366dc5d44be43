"""Rows of token ids in padded batches."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


def batches(lengths: Iterable[int], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of `size`, longest rows first, so each batch needs little padding."""
    order = sorted(enumerate(lengths), key=lambda pair: (-pair[1], pair[0]))
    for start in range(0, len(order), size):
        yield [index for index, _ in order[start : start + size]]


def padded(rows: Sequence[Sequence[int] | Tensor], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (input_ids, attention_mask), both [rows, longest], padded on the right unless `left`."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(len(row))
        ids[i, span] = torch.as_tensor(row)
        mask[i, span] = 1
    return ids, mask
