"""Rows of token ids in padded batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

SAME = {torch.float32: 1e-4}  # differences that roundings make, relative to the spread of the values
SAME_16_BITS = 0.05


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


def steady(lengths: Sequence[int], size: int, dtype: torch.dtype, results: Callable[[list[int]], Tensor]) -> int:
    """`size`, or 1 if a row's results depend on the rows beside it, as those of a model whose state reads padding do.

    It is measured on the shortest row, alone and beside the longest; `results` gives for the indices of rows a tensor
    [rows, any, values]. It cannot be read from a name: some recurrent models heed the mask, and others do not.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if size == 1 or len(order) < 2:
        return size
    alone, beside = results(order[:1])[0].double(), results([order[0], order[-1]])[0].double()
    # medians: some models give a few values, as those of tokens that they rule out, a size of their own
    moved = (beside - alone).abs().nanmedian(dim=-1).values
    spread = (alone - alone.nanmedian(dim=-1, keepdim=True).values).abs().nanmedian(dim=-1).values
    return size if bool((moved <= SAME.get(dtype, SAME_16_BITS) * spread).all()) else 1
