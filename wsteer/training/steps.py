"""Which rows make which step of a run, and in which parts they are computed."""

import math
import random
from collections.abc import Sequence

import torch

from wsteer.batching import epoch_batches
from wsteer.rendering import Example

BLANK = -1  # the index of a row without tokens to train, which fills up where processes need equal shares


def run_batches(lengths: Sequence[int], size: int, epochs: float, max_steps: int | None, seed: int) -> list[list[int]]:
    """The rows of every step of a run, as indices into `lengths` (tokens of each row).

    Each epoch takes every row once, in an order of its own; its last step has what is left. `max_steps` counts instead
    of `epochs`.
    """
    chance = random.Random(seed)
    steps = max_steps or math.ceil(epochs * math.ceil(len(lengths) / size))
    batches: list[list[int]] = []
    while len(batches) < steps:
        batches += epoch_batches(lengths, size, chance)
    return batches[:steps]


def micro_batches(batch: Sequence[int], size: int, count: int) -> list[list[int]]:
    """A step's rows in `count` micro-batches of up to `size`.

    Where the rows do not reach, a blank row stands in: every process must take part in every micro-batch.
    """
    parts = [list(batch[start : start + size]) for start in range(0, len(batch), size)]
    return parts + [[BLANK]] * (count - len(parts))


def blank(pad: int) -> Example:
    """A row of one token that trains nothing."""
    return Example(torch.tensor([pad], dtype=torch.int32), torch.tensor([False]), slice(0, 0))
