"""Deltas applied in memory: the bits of steer, restored bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import Dense
from wsteer.errors import WsteerError
from wsteer.models.loading import load
from wsteer.steering.memory import applied, steered_tensor
from wsteer.steering.rounding import Rounding


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_applied_gives_the_bits_of_steer(steered: tuple[Path, Path, Path], dtype: str) -> None:
    base, w, out = steered
    loaded, expected = load(base, "cpu", dtype), weights(load(out, "cpu", dtype).model)
    with applied(loaded.model, Delta.load(w), 1.5, loaded.checkpoint):
        actual = weights(loaded.model)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not all(torch.equal(expected[name], p) for name, p in weights(loaded.model).items())


def test_applied_without_the_checkpoint_folds_into_the_models_own_weights(
    tiny: Path, adapters: tuple[Path, Path]
) -> None:
    model = load(tiny, "cpu").model
    from tests.helpers.exact_fold import adapter_factors

    factors = adapter_factors(adapters[0])
    before = weights(model)
    with applied(model, Delta.of_factors(factors), 2.0):
        for name, parameter in model.named_parameters():
            expected = before[name].double()
            if name in factors:
                expected = expected + 2.0 * factors[name][0].double() @ factors[name][1].double()
            torch.testing.assert_close(parameter.double(), expected, rtol=0, atol=1e-6)


def test_weights_are_restored_bit_for_bit_after_success_and_failure(steered: tuple[Path, Path, Path]) -> None:
    base, w, _ = steered
    loaded = load(base, "cpu")
    before = weights(loaded.model)
    for k in (-2.0, 0.3, 5.0):
        with applied(loaded.model, Delta.load(w), k, loaded.checkpoint):
            pass
    with pytest.raises(KeyboardInterrupt), applied(loaded.model, Delta.load(w), 1.0):
        raise KeyboardInterrupt
    assert all(torch.equal(before[name], after) for name, after in weights(loaded.model).items())


def test_activation_vectors_are_added_to_block_outputs_and_removed(tiny: Path) -> None:
    model = load(tiny, "cpu").model
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    delta = Delta.of_tensors({"blocks.1": vector}, kind="activation")

    def block_inputs() -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        hooks = [b.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for b in model.model.layers]
        model(torch.tensor([[1, 2, 3]]))
        for hook in hooks:
            hook.remove()
        return seen

    plain = block_inputs()
    with applied(model, delta, 2.0):
        hooked = block_inputs()
    torch.testing.assert_close(hooked[2], plain[2] + 2.0 * vector)  # what enters block 2 is the output of block 1
    assert torch.equal(hooked[1], plain[1])
    assert all(torch.equal(x, y) for x, y in zip(plain, block_inputs(), strict=True))


def test_deltas_of_another_model_are_refused(tiny: Path) -> None:
    model = load(tiny, "cpu").model
    before = weights(model)
    cases = [
        (Delta.of_tensors({"model.norm.weight": torch.ones(32), "gone": torch.ones(1)}), "no parameter 'gone'"),
        (Delta.of_tensors({"model.norm.weight": torch.ones(31)}), "in the delta"),
        (Delta.of_tensors({"blocks.3": torch.ones(32)}, kind="activation"), "does not fit"),
        (Delta.of_tensors({"blocks.0": torch.ones(31)}, kind="activation"), "does not fit"),
    ]
    for delta, reason in cases:
        with pytest.raises(WsteerError, match=reason), applied(model, delta):
            pass
    assert all(torch.equal(before[name], after) for name, after in weights(model).items())


def test_nan_in_a_delta_is_refused_and_the_weights_are_restored(tiny: Path) -> None:
    model = load(tiny, "cpu").model
    delta = Delta.of_tensors({"model.norm.weight": torch.full((32,), float("nan"))})
    with pytest.raises(WsteerError, match="NaN"), applied(model, delta):
        pass
    assert model.model.norm.weight.isfinite().all()


def test_scalar_parameters_are_folded_like_on_disk() -> None:
    delta = Delta.of_tensors({"scale": torch.tensor(0.5), "none": torch.empty(0, 3)})
    assert steered_tensor("scale", torch.tensor(1.0), delta.change("scale"), 1.0, Rounding()).item() == 1.5
    assert steered_tensor("none", torch.empty(0, 3), delta.change("none"), 1.0, Rounding()).shape == (0, 3)


def test_a_delta_of_another_base_or_of_one_parameter_twice_is_refused(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    before = weights(loaded.model)
    tensors = {"model.norm.weight": torch.ones(32), "norm.weight": torch.ones(32)}
    with (
        pytest.raises(WsteerError, match=r"there are two of model.norm.weight"),
        applied(loaded.model, Delta.of_tensors(tensors)),
    ):
        pass
    other = {"name": "other", "revision": None, "fingerprint": "0"}
    foreign = replace(Delta.of_tensors({"model.norm.weight": torch.ones(32)}), base=other)
    with (
        pytest.raises(WsteerError, match="have different bases; use the model it was made on"),
        applied(loaded.model, foreign, base=loaded.checkpoint),
    ):
        pass
    assert all(torch.equal(before[name], after) for name, after in weights(loaded.model).items())


class Counted:
    """A change of ones that counts the rows that were asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.asked = shape, 0

    def rows(self, start: int, stop: int) -> torch.Tensor:
        self.asked += stop - start
        return torch.ones(stop - start, *self.shape[1:])


@pytest.mark.parametrize(
    ("dtype", "rounding", "sampled"),
    [
        (torch.float32, "auto", False),
        (torch.bfloat16, "nearest", False),
        (torch.bfloat16, "stochastic", False),
        (torch.bfloat16, "auto", True),
    ],
)
def test_a_change_is_sampled_only_where_that_decides_the_rounding(
    tiny: Path, dtype: torch.dtype, rounding: str, sampled: bool
) -> None:
    model = load(tiny, "cpu").model.to(dtype)
    name = "model.layers.0.self_attn.q_proj.weight"
    change = Counted(tuple(model.get_parameter(name).shape))
    with applied(
        model,
        replace(Delta.of_tensors({name: torch.ones(change.shape)}), terms={name: ((1.0, Dense(change)),)}),
        rounding=rounding,
    ):
        pass
    assert (change.asked > change.shape[0]) is sampled
