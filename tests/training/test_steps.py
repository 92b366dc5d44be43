"""Batches: rows of like length, logits where they are trained, and the loss of each row as if it stood alone."""

import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.helpers.tiny import save_model
from wsteer.models.rendering import Example
from wsteer.training.steps import collate, epoch_batches


def example(tokens: list[int], trained: list[int]) -> Example:
    return Example(torch.tensor(tokens, dtype=torch.int32), torch.tensor(trained).bool(), slice(0, 1))


# trained tokens at the start, in the middle twice, and at the end, in rows of different lengths
ROWS = [
    example([10, 11, 12, 13, 14, 15, 16, 17], [0, 1, 1, 0, 0, 1, 1, 0]),
    example([20, 21, 22], [0, 0, 1]),
    example([30, 31, 32, 33, 34], [1, 1, 0, 0, 1]),
]


def test_labels_are_the_trained_tokens_and_logits_stand_before_them() -> None:
    batch = collate(ROWS, pad=9)
    assert batch["labels"].tolist() == batch["shift_labels"].tolist() == [11, 12, 15, 16, 22, 31, 34]
    rows, positions = batch["logits_to_keep"].nonzero(as_tuple=True)
    assert batch["input_ids"][rows, positions + 1].tolist() == batch["labels"].tolist()
    assert batch["attention_mask"].sum(dim=1).tolist() == [8, 3, 5]
    assert batch["input_ids"].shape == (3, 8)  # no padding beyond the longest row
    assert (batch["input_ids"][1, 3:] == 9).all()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_loss_of_a_batch_is_the_mean_over_its_trained_tokens(tmp_path: Path, kind: str) -> None:
    folder = save_model(tmp_path / kind, kind=kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    batch = collate(ROWS, pad=9)
    output = model(**batch)
    assert output.logits.shape == (7, model.config.vocab_size)
    losses = []
    for row in ROWS:
        logits = model(row.tokens[None].long()).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, row.tokens[1:].long(), reduction="none")
        losses.append(loss[row.trained[1:]])
    assert output.loss.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


def test_every_epoch_holds_every_row_once_in_batches_of_like_length() -> None:
    lengths = [random.Random(i).randint(10, 500) for i in range(1003)]
    chance = random.Random(0)
    first, second = (epoch_batches(lengths, 8, chance) for _ in range(2))
    for batches in (first, second):
        assert sorted(row for batch in batches for row in batch) == list(range(1003))
        assert [len(batch) for batch in batches] == [8] * 125 + [3]
        assert all(lengths[a] >= lengths[b] for batch in batches for a, b in itertools.pairwise(batch))
        padding = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches) / sum(lengths) - 1
        assert padding < 0.06
        longest = [lengths[batch[0]] for batch in batches]
        assert longest != sorted(longest, reverse=True)
    assert first != second
    assert epoch_batches(lengths, 8, random.Random(0)) == first


def test_fewer_rows_than_a_batch_are_one_short_batch() -> None:
    assert [sorted(batch) for batch in epoch_batches([3, 1, 2], 8, random.Random(0))] == [[0, 1, 2]]
    assert sorted(map(len, epoch_batches([1] * 16, 8, random.Random(0)))) == [8, 8]
