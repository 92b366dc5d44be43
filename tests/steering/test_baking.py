"""Activation vectors baked into biases."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.checkpoint_contents import TOKENS, logits
from tests.helpers.tiny import SIZES, save_model
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.steering.export import export


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_baked_vectors_equal_hooks(tmp_path: Path, kind: str, tied: bool) -> None:
    base = save_model(tmp_path / "base", kind=kind, tie_word_embeddings=tied, shard="20KB")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    model.float().save_pretrained(base)
    vectors = {f"blocks.{block}": torch.randn(32) for block in (0, 2)}
    Delta.of_tensors(vectors, kind="activation").save(tmp_path / "a.safetensors")
    biases = {f"model.layers.{i}.mlp.down_proj.bias": vectors[f"blocks.{i}"] for i in (0, 2)}
    Delta.of_tensors(biases).save(tmp_path / "b.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    with torch.no_grad(), wsteer.applied(model, Delta.load(tmp_path / "a.safetensors"), 1.5):
        hooked = model(TOKENS).logits
    with torch.no_grad(), wsteer.applied(model, Delta.load(tmp_path / "b.safetensors"), 1.5):
        torch.testing.assert_close(model(TOKENS).logits, hooked, rtol=0, atol=1e-12)
    for delta in ("a", "b"):
        wsteer.steer(
            base, tmp_path / f"{delta}.safetensors", k=1.5, output=tmp_path / delta, selection=Selection([0, 2])
        )
        torch.testing.assert_close(logits(tmp_path / delta), hooked, rtol=0, atol=1e-6)
        config = json.loads((tmp_path / delta / "config.json").read_text())
        assert (config["model_type"], config["mlp_bias"], config["architectures"]) == (
            "llama",
            True,
            ["LlamaForCausalLM"],
        )
        assert config["tie_word_embeddings"] is tied


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma2", "qwen3"])
def test_vectors_are_not_baked_where_that_is_not_the_same_model(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES, head_dim=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    Delta.of_tensors({"blocks.0": torch.ones(32)}, kind="activation").save(tmp_path / "a.safetensors")
    with pytest.raises(WsteerError, match="eval --delta"):
        wsteer.steer(tmp_path / "base", tmp_path / "a.safetensors", k=1, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def vectors(tmp_path: Path, blocks: int = 3) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"blocks.{block}": torch.randn(32, generator=generator) for block in range(blocks)}
    Delta.of_tensors(tensors, kind="activation").save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_baked_vectors_of_all_layers_are_those_that_applied_adds(tmp_path: Path, tiny: Path) -> None:
    a = vectors(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64).eval()
    with torch.no_grad(), wsteer.applied(model, Delta.load(a), 0.5, variant="all-layers"):
        hooked = model(TOKENS).logits
    wsteer.steer(tiny, a, k=0.5, output=tmp_path / "out", selection=Selection(variant="all-layers"))
    torch.testing.assert_close(logits(tmp_path / "out"), hooked, rtol=0, atol=1e-5)
    baked = load_file(tmp_path / "out" / "model.safetensors")
    raw = Delta.load(a)
    rows = [raw.change(f"blocks.{block}").rows(0, 32) for block in range(3)]
    expected = [rows[0], rows[1] - rows[0], torch.zeros(32)]  # the last block gets none
    for block, row in enumerate(expected):
        torch.testing.assert_close(baked[f"model.layers.{block}.mlp.down_proj.bias"], 0.5 * row)


@pytest.mark.parametrize("form", ["checkpoint", "delta"])
def test_the_vectors_of_several_blocks_are_added_as_eval_adds_them_or_not_at_all(
    tmp_path: Path, tiny: Path, form: str
) -> None:
    a = vectors(tmp_path)
    w = tmp_path / "w.safetensors"
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(w)
    cases = [
        ([a], Selection(), "holds the activation vectors of 3 blocks.*--layers.*--variant all-layers"),
        ([a], Selection(layer_scale=(0.5, 1.0)), "holds the activation vectors of 3 blocks"),
        ([a], Selection([1], variant="all-layers"), "adds at all blocks; leave out --layers"),
        ([w, a], Selection(variant="all-layers"), "w.safetensors is a change of weights, and --variant all-layers"),
        ([a], Selection(variant="some"), "variant is 'some'; the only one is 'all-layers'"),
    ]
    for deltas, selection, reason in cases:
        given = {"k": 1.0, "output": tmp_path / "out", "selection": selection}
        with pytest.raises(WsteerError, match=reason):
            wsteer.steer(tiny, deltas, **given) if form == "checkpoint" else export(tiny, deltas, form=form, **given)
    for blocks in ([1], [0, 1]):
        assert export(tiny, [a], 1.0, tmp_path / "o", form="delta", selection=Selection(blocks), force=True).parameters
    (tmp_path / "one").mkdir()
    vectors(tmp_path / "one", 1)
    wsteer.steer(tiny, tmp_path / "one" / "a.safetensors", k=1.0, output=tmp_path / "single")
