"""Which rows make which step of a run: rows of similar length together, in micro-batches that a device holds."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.models.batches import padded
from wsteer.models.rendering import Example

# how many batches' rows are sorted by length together; more save padding, fewer make the order more random
WINDOW = 16
MOST_ROWS = 20_000_000  # that the steps of a run take; they are planned, in memory, before the first one
BLANK = -1  # the index of a row without trained tokens, which gives processes equal shares


def run_batches(lengths: Sequence[int], size: int, epochs: float, max_steps: int | None, seed: int) -> list[list[int]]:
    """The rows of every step of a run, as indices into `lengths` (tokens of each row).

    Each epoch takes every row once, in a new order; its last step has the rows that are left. `max_steps` replaces
    `epochs`.
    """
    chance = random.Random(seed)
    steps = max_steps or math.ceil(epochs * math.ceil(len(lengths) / size))
    if steps * min(size, len(lengths)) > MOST_ROWS:
        raise WsteerError(f"{steps} steps are too many to plan; lower --epochs or --max-steps")
    batches: list[list[int]] = []
    while len(batches) < steps:
        batches += epoch_batches(lengths, size, chance)
    return batches[:steps]


def micro_batches(batch: Sequence[int], size: int, count: int) -> list[list[int]]:
    """A step's rows in `count` micro-batches of up to `size`.

    If the rows are too few, the last ones hold a blank row: every process must take part in every micro-batch.
    """
    parts = [list(batch[start : start + size]) for start in range(0, len(batch), size)]
    return parts + [[BLANK]] * (count - len(parts))


def blank(pad: int) -> Example:
    """A row of one token that trains nothing."""
    return Example(torch.tensor([pad], dtype=torch.int32), torch.tensor([False]), slice(0, 0))


def collate(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """A training batch, padded on the right to its longest row, for a causal model of transformers.

    `logits_to_keep` [rows, longest] marks the tokens whose next token is trained, anywhere in the rows. The model
    computes logits only for them, as [trained, vocabulary]: on short answers the head is a large part of the work.
    `labels` [trained] are those next tokens; passed as `shift_labels` they are not shifted again by the loss.
    """
    input_ids, attention_mask = padded([example.tokens for example in examples], pad)
    trained, _ = padded([example.trained for example in examples], False)
    kept = torch.zeros_like(trained, dtype=torch.bool)
    kept[:, :-1] = trained[:, 1:]
    labels = input_ids[:, 1:][kept[:, :-1]]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "logits_to_keep": kept,
        "labels": labels,
        "shift_labels": labels,
    }


def epoch_batches(lengths: Sequence[int], size: int, chance: random.Random) -> list[list[int]]:
    """Every row once, as indices into `lengths`, in batches of `size` rows of similar length, in a random order.

    The rows are shuffled and sorted by length within windows of `WINDOW` batches, and the batches shuffled; a short
    batch comes last. A batch has its longest rows first, so its micro-batches have rows of similar length too.
    """
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), WINDOW * size):
        rows = sorted(order[start : start + WINDOW * size], key=lengths.__getitem__, reverse=True)
        batches += [rows[i : i + size] for i in range(0, len(rows), size)]
    short = [batches.pop()] if len(batches[-1]) < size else []
    chance.shuffle(batches)
    return batches + short
