"""Which rows make which step, and the tensors of a batch."""

import math
import random
from collections.abc import Sequence

import torch

from wsteer.data import Example, padded

IGNORED = -100  # the label that torch's cross entropy skips
BLANK = -1  # the index of a row without tokens to train, which fills up where processes need equal shares


def run_batches(lengths: Sequence[int], size: int, epochs: float, max_steps: int | None, seed: int) -> list[list[int]]:
    """The rows of every step of a run, as indices into `lengths` (tokens of each row).

    Each epoch takes every row once, in an order of its own; its last step has what is left. `max_steps` counts instead
    of `epochs`.
    """
    order = random.Random(seed)
    per_epoch = math.ceil(len(lengths) / size)
    steps = max_steps or math.ceil(epochs * per_epoch)
    batches: list[list[int]] = []
    while len(batches) < steps:
        rows = list(range(len(lengths)))
        order.shuffle(rows)
        batches += [rows[start : start + size] for start in range(0, len(rows), size)]
    return batches[:steps]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], size: int, count: int) -> list[list[int]]:
    """A step's rows in `count` micro-batches of up to `size`, longest first so that like goes with like.

    Where the rows do not reach, a blank row stands in: every process must take part in every micro-batch.
    """
    ordered = sorted(batch, key=lambda row: (-lengths[row], row))
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return parts + [[BLANK]] * (count - len(parts))


def collate(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor | int]:
    """A training batch, padded on the right to its longest row; labels are `IGNORED` but on answer and closing.

    `logits_to_keep` makes the model compute logits from the first answer's last prompt token on, no earlier: on short
    answers the head is a good part of the work. The labels are cut to match.
    """
    input_ids, attention_mask = padded([example.tokens for example in examples], pad)
    trained = [[IGNORED] * len(example.prompt) + example.answer + example.closing for example in examples]
    labels, _ = padded(trained, IGNORED)
    keep = labels.shape[1] - min(len(example.prompt) for example in examples) + 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels[:, -keep:],
        "logits_to_keep": keep,
    }


def blank(pad: int) -> Example:
    """A row of one token that trains nothing."""
    return Example([pad], [], [])


def trained_tokens(batch: dict) -> int:
    """How many tokens' losses a batch sums up; a row's first token is never predicted."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())
