"""Rows of token ids in padded batches."""

import pytest
import torch

from wsteer.models.batches import batches, padded, steady


def test_rows_are_padded_on_the_side_asked_for() -> None:
    ids, mask = padded([[1, 2, 3], [4]], pad=9)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]])
    ids, mask = padded([[1, 2, 3], [4]], pad=9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [9, 9, 4]], [[1, 1, 1], [0, 0, 1]])


def test_batches_hold_every_row_once_longest_first() -> None:
    assert list(batches([3, 9, 3, 5], 2)) == [[1, 3], [0, 2]]
    assert list(batches([], 2)) == []


@pytest.mark.parametrize(
    ("dtype", "effect", "size"),
    [("float32", 1e-5, 8), ("float32", 1e-2, 1), ("bfloat16", 1e-2, 8), ("bfloat16", 1, 1), ("float16", 0.1, 1)],
)
def test_rows_run_alone_if_the_row_beside_them_changes_more_than_roundings_do(
    dtype: str, effect: float, size: int
) -> None:
    def results(indices: list[int], other_padding: bool) -> torch.Tensor:
        values = torch.linspace(-1, 1, 33).repeat(len(indices), 2, 1)
        values[:, 1] += effect * (len(indices) - 1)  # as where the second token alone reads the cache
        values[:, :, 0] = -torch.inf  # a token that is ruled out
        return values

    assert steady([3, 9, 5], 8, getattr(torch, dtype), results) == size
    assert steady([3], 8, getattr(torch, dtype), results) == 8
    assert steady([3, 9, 5], 1, getattr(torch, dtype), results) == 1


def test_the_shortest_row_is_measured_beside_the_longest() -> None:
    asked = []

    def results(indices: list[int], other_padding: bool) -> torch.Tensor:
        asked.append(indices)
        return torch.zeros(len(indices), 1, 4)

    assert steady([3, 9, 1, 5], 2, torch.float32, results) == 2
    assert asked == [[2], [2, 1]]


@pytest.mark.parametrize(("of_padding", "of_experts", "size"), [(1e-3, 0, 1), (1e-3, 1e-3, 8), (0, 0, 8)])
def test_in_16_bits_no_token_of_the_padding_may_change_a_row(of_padding: float, of_experts: float, size: int) -> None:
    def results(indices: list[int], other_padding: bool) -> torch.Tensor:
        values = torch.linspace(-1, 1, 33).repeat(len(indices), 1, 1)
        if other_padding:
            values[0] += of_padding
            values[1] += of_experts  # a row without padding: what sharing experts with it moves
        return values

    assert steady([3, 9, 5], 8, torch.bfloat16, results) == size
    assert steady([3, 9, 5], 8, torch.float32, results) == 8
