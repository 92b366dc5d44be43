"""Deltas applied in memory: the bits of steer, restored bit for bit; generation that batches cannot change."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.models.generation import answer
from wsteer.models.loading import decoder_blocks, load
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
    from tests.folding import adapter_factors

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


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_decoder_blocks_are_found(tmp_path: Path, kind: str) -> None:
    model = load(save_model(tmp_path / kind, kind), "cpu").model
    assert decoder_blocks(model) is model.model.layers


def test_a_checkpoints_sampling_settings_do_not_leak(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    settings = '{"eos_token_id": [257, 256], "repetition_penalty": 1.9, "do_sample": true, "temperature": 0.1}'
    (folder / "generation_config.json").write_text(settings)
    config = load(folder, "cpu").model.generation_config
    assert config.eos_token_id == [257, 256]
    assert config.repetition_penalty in (None, 1.0)
    assert not config.do_sample


def test_a_checkpoint_with_missing_tensors_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WsteerError, match=r"lacks 'model\.layers\.1\.mlp"):
        load(folder, "cpu")


@pytest.mark.parametrize("config", ["[]", '{"model_type": "llama", "num_hidden_layers": "three"}', "{"])
def test_strange_configs_are_one_error(tmp_path: Path, config: str) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text(config)
    with pytest.raises(WsteerError):
        load(folder, "cpu")


def test_nan_in_a_delta_is_refused_and_the_weights_are_restored(tiny: Path) -> None:
    model = load(tiny, "cpu").model
    delta = Delta.of_tensors({"model.norm.weight": torch.full((32,), float("nan"))})
    with pytest.raises(WsteerError, match="NaN"), applied(model, delta):
        pass
    assert model.model.norm.weight.isfinite().all()


def test_rows_longer_than_the_models_positions_are_refused(tmp_path: Path) -> None:
    loaded = load(save_model(tmp_path / "short", max_position_embeddings=20), "cpu")
    with pytest.raises(WsteerError, match="longer than the 20 positions"):
        answer(loaded, CHATS, 8)


def test_scalar_parameters_are_folded_like_on_disk() -> None:
    delta = Delta.of_tensors({"scale": torch.tensor(0.5), "none": torch.empty(0, 3)})
    assert steered_tensor("scale", torch.tensor(1.0), delta.change("scale"), 1.0, Rounding()).item() == 1.5
    assert steered_tensor("none", torch.empty(0, 3), delta.change("none"), 1.0, Rounding()).shape == (0, 3)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    with pytest.raises(WsteerError, match="transformers cannot load"):
        load(folder, "cpu")


CHATS = [[{"role": "user", "content": "x" * length}] for length in (3, 17, 9, 1, 30)]


def test_greedy_answers_do_not_depend_on_their_batch(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    alone = [answer(loaded, [chat], 8)[0] for chat in CHATS]
    assert answer(loaded, CHATS, 8, batch_size=5) == alone
    assert answer(loaded, CHATS, 8, batch_size=2) == alone


def test_sampled_answers_depend_on_seed_and_row_alone(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    first = answer(loaded, CHATS, 8, batch_size=5, temperature=1.0, seed=1)
    assert answer(loaded, CHATS, 8, batch_size=2, temperature=1.0, seed=1) == first
    assert answer(loaded, CHATS, 8, batch_size=5, temperature=1.0, seed=2) != first
    same = answer(loaded, [CHATS[0]] * 6, 8, temperature=1.0, seed=0)
    assert len({given.text for given in same}) > 1


def test_sampling_draws_from_the_softmax() -> None:
    from wsteer.models.generation import SeededSampling

    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    sampler = SeededSampling(0, [7], temperature=0.7)
    draws = torch.tensor([int(sampler(torch.empty(1, 0), logits).argmax()) for _ in range(20_000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 0.7, 0), rtol=0, atol=0.015)


def test_answers_end_at_the_end_token(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    loaded.model.generation_config.eos_token_id = list(range(262))
    assert [(given.text, given.tokens, given.finished) for given in answer(loaded, CHATS[:1], 8)] == [("", 0, True)]


def test_steered_file_and_tied_head(steered: tuple[Path, Path, Path]) -> None:
    _, _, out = steered
    names = {name for path in out.glob("*.safetensors") for name in load_file(path)}
    assert "lm_head.weight" not in names  # the base ties it, and so does what steer writes
