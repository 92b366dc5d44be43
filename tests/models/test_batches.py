"""Rows of token ids in padded batches."""

from wsteer.models.batches import batches, padded


def test_rows_are_padded_on_the_side_asked_for() -> None:
    ids, mask = padded([[1, 2, 3], [4]], pad=9)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]])
    ids, mask = padded([[1, 2, 3], [4]], pad=9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [9, 9, 4]], [[1, 1, 1], [0, 0, 1]])


def test_batches_hold_every_row_once_longest_first() -> None:
    assert list(batches([3, 9, 3, 5], 2)) == [[1, 3], [0, 2]]
    assert list(batches([], 2)) == []
