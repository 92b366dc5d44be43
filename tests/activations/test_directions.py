"""Directions of planted rows, against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from wsteer.activations.directions import Means, mean_directions, pca_directions, principal


def rows(count: int, hidden: int, seed: int = 0) -> Tensor:
    return torch.randn(2, count, hidden, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batched(means: Tensor, size: int = 3) -> Means:
    """In an order other than that of the rows."""
    order = torch.randperm(means.shape[1], generator=torch.Generator().manual_seed(1))
    return ((batch.tolist(), means[:, batch]) for batch in order.split(size))


@pytest.mark.parametrize(("count", "hidden"), [(5, 12), (12, 5), (6, 6), (1, 4)])
def test_the_principal_direction_is_that_of_numpys_svd(count: int, hidden: int) -> None:
    given = rows(count, hidden)[0] + 1
    vector, explained = principal(given)
    _, values, right = np.linalg.svd(given.numpy(), full_matrices=False)
    np.testing.assert_allclose(vector.numpy(), right[0] * (right[0] @ given.numpy().mean(axis=0)), atol=1e-10)
    assert float(explained) == pytest.approx(values[0] ** 2 / (values**2).sum(), rel=1e-10)
    zero, none = principal(torch.zeros(count, hidden, dtype=torch.float64))
    assert not zero.any() and float(none) == 0


def test_pca_keeps_the_mean_difference_which_centring_removes() -> None:
    noise = rows(40, 8)
    shift = torch.zeros(8, dtype=torch.float64)
    shift[3] = 20.0
    pos, neg = rows(40, 8, seed=3) + shift, noise
    found = pca_directions(batched(pos), batched(neg), 40)
    mean = (pos - neg).mean(dim=1)
    cosines = torch.nn.functional.cosine_similarity(found.vectors, mean, dim=1)
    assert cosines.min() > 0.99
    # as long as the mean difference is along it
    torch.testing.assert_close(found.vectors.norm(dim=1), cosines * mean.norm(dim=1))
    centred = (pos - neg - mean[:, None])[0]
    _, _, right = np.linalg.svd(centred.numpy())
    assert abs(right[0] @ mean[0].numpy() / float(mean[0].norm())) < 0.9  # what repeng's pca_diff takes


def test_halves_are_the_rows_of_even_and_of_odd_index_in_any_batches() -> None:
    pos, neg = rows(7, 5), rows(4, 5, seed=2)
    found = mean_directions(batched(pos), batched(neg), 7, 4)
    torch.testing.assert_close(found.vectors, pos.mean(dim=1) - neg.mean(dim=1))
    torch.testing.assert_close(found.residual, (pos.mean(dim=1) + neg.mean(dim=1)) / 2)
    assert found.halves is not None
    for start in (0, 1):
        expected = pos[:, start::2].mean(dim=1) - neg[:, start::2].mean(dim=1)
        torch.testing.assert_close(found.halves[start], expected)
    cosines = torch.nn.functional.cosine_similarity(found.halves[0], found.halves[1], dim=1)
    assert found.half_cosines == pytest.approx(cosines.tolist())


def test_halves_of_pca_have_directions_of_their_own() -> None:
    pos, neg = rows(9, 5), rows(9, 5, seed=2)
    found = pca_directions(batched(pos), batched(neg), 9)
    assert found.halves is not None
    for start in (0, 1):
        for block in (0, 1):
            difference = (pos - neg)[block, start::2].numpy()
            _, _, right = np.linalg.svd(difference, full_matrices=False)
            expected = right[0] * (right[0] @ difference.mean(axis=0))
            np.testing.assert_allclose(found.halves[start, block].numpy(), expected, atol=1e-10)


def test_one_row_has_no_halves_and_a_half_without_a_vector_no_cosine() -> None:
    assert mean_directions(batched(rows(1, 5)), batched(rows(4, 5, seed=2)), 1, 4).half_cosines is None
    assert pca_directions(batched(rows(1, 5)), batched(rows(1, 5, seed=2)), 1).half_cosines is None
    pos, neg = rows(4, 5), rows(4, 5, seed=2)
    neg[0, ::2] = pos[0, ::2]
    for found in (
        mean_directions(batched(pos, 8), batched(neg, 8), 4, 4),
        pca_directions(batched(pos), batched(neg), 4),
    ):
        assert found.half_cosines is not None
        assert found.half_cosines[0] is None and found.half_cosines[1] is not None
