"""Rows of token ids in padded batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

# what roundings to 16 bits move in deep models, relative to the spread of the values; roundings to 32 bits move less
SAME = {torch.float16: 0.05, torch.bfloat16: 0.4}


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


def steady(lengths: Sequence[int], size: int, dtype: torch.dtype, results: Callable[[list[int], bool], Tensor]) -> int:
    """`size`, or 1 if a row's results depend on the rows beside it, as those of a model whose state reads padding do.

    It is measured on the shortest row, alone and beside the longest; `results` gives for the indices of rows a tensor
    [rows, any, values], with other tokens in the padding if it is True. It cannot be read from a name: some recurrent
    models heed the mask, and others do not.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if size == 1 or len(order) < 2:
        return size
    both = [order[0], order[-1]]
    alone, beside = results(both[:1], False)[0].double(), results(both, False).double()
    # medians: some models give a few values, as those of tokens that they rule out, a size of their own
    moved = (beside[0] - alone).abs().nanmedian(dim=-1).values
    spread = (alone - alone.nanmedian(dim=-1, keepdim=True).values).abs().nanmedian(dim=-1).values
    if not bool((moved <= SAME.get(dtype, 1e-4) * spread).all()):
        return 1
    if dtype.itemsize > 2:
        return size
    # what 16 bits hide: tokens in the padding must change nothing, or no more than they change the row without padding
    changed = (results(both, True).double() - beside).abs().nanmedian(dim=-1).values
    return size if bool((changed[0] <= 4 * changed[1]).all()) else 1
