"""Stochastic rounding: unbiased, and of noise that is even and independent of neighbours, seeds and names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.checkpoint_contents import same_weights, stored_tensors
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
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


def test_stochastic_rounding_keeps_the_mean_and_depends_on_the_seed_alone(tmp_path: Path, small: tuple) -> None:
    base, w = small
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        wsteer.steer(base, w, k=1, output=tmp_path / name, rounding="stochastic", seed=seed)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    with wsteer.applied(
        model, Delta.load(w), 1.0, wsteer.checkpoints.checkpoint.open_checkpoint(base), "stochastic", 1
    ):
        after = stored_tensors(tmp_path / "c")
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, after[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_unbiased_and_leaves_what_the_dtype_holds(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    held = torch.cat([torch.randn(1000), torch.randn(1000) * 1e-6, torch.zeros(2)]).to(dtype)
    kept = rounded_stochastically(held.float().clone(), dtype, 0, "name", 5)
    assert torch.equal(kept.to(dtype), held)
    for value in (0.0123456, -3.3e-6, 1e-3):
        many = torch.full((1 << 18,), value)
        rounded = rounded_stochastically(many.clone(), dtype, 7, "name", 0)
        assert torch.equal(rounded, rounded.to(dtype).float())
        assert 1 <= len(rounded.unique()) <= 2
        spread = float(rounded.unique().max() - rounded.unique().min())
        assert float(rounded.double().mean()) == pytest.approx(float(many[0]), abs=max(spread, 1e-12) * 5 / 2**9)


def test_a_rounding_that_there_is_not_is_refused_wherever_python_names_one(
    tmp_path: Path, steered: tuple[Path, Path, Path]
) -> None:
    base, w, _ = steered
    with pytest.raises(WsteerError, match="no rounding 'up'"):
        wsteer.steer(base, w, k=1, output=tmp_path / "out", rounding="up")
    with pytest.raises(WsteerError, match="no rounding 'up'"):
        wsteer.evaluate(base, tmp_path / "e", "agreement", delta=w, ks=[1], limit=1, rounding="up")
    loaded = wsteer.load(base)
    with (
        pytest.raises(WsteerError, match="no rounding 'up'"),
        wsteer.applied(loaded.model, wsteer.Delta.load(w), rounding="up"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
