"""The noise of stochastic rounding: even, and independent of neighbours, seeds and names."""

import numpy as np
import pytest
import torch

from wsteer.steering.rounding import rounded_stochastically

COUNT = 1 << 18


def noise(seed: int, name: str, first: int = 0, count: int = COUNT) -> np.ndarray:
    """The noise of each element in 256ths, seen in how many of 256 shares of a place it rounds up."""
    up = np.zeros(count)
    for step in range(256):
        value = torch.full((count,), 1 + step / 256 * 2.0**-7)
        rounded = rounded_stochastically(value, torch.bfloat16, seed, name, first)
        up += (rounded > 1).numpy()
    return (up + 0.5) / 256


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return noise(0, "model.layers.0.mlp.up_proj.weight")


def test_it_is_even(sample: np.ndarray) -> None:
    counts = np.bincount((sample * 64).astype(int), minlength=64)
    expected = COUNT / 64
    squared = ((counts - expected) ** 2 / expected).sum()
    assert 63 - 5 * np.sqrt(126) < squared < 63 + 5 * np.sqrt(126)  # chi² of 63 degrees of freedom


@pytest.mark.parametrize("lag", [1, 2, 3, 7, 16, 64, 576, 1536, 4096])
def test_neighbours_in_a_row_and_in_a_column_are_independent(sample: np.ndarray, lag: int) -> None:
    correlation = np.corrcoef(sample[:-lag], sample[lag:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(COUNT - lag)


def test_other_seeds_and_other_parameters_have_other_noise(sample: np.ndarray) -> None:
    for other in (noise(1, "model.layers.0.mlp.up_proj.weight"), noise(0, "model.layers.1.mlp.up_proj.weight")):
        assert abs(np.corrcoef(sample, other)[0, 1]) < 5 / np.sqrt(COUNT)


def test_a_part_has_the_noise_of_its_place(sample: np.ndarray) -> None:
    for first, count in ((0, 5), (7, 64), (1001, 3)):
        part = noise(0, "model.layers.0.mlp.up_proj.weight", first, count)
        assert (part == sample[first : first + count]).all()
