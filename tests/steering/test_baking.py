"""Activation vectors baked into biases."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.checkpoint_contents import TOKENS, logits
from tests.helpers.tiny import SIZES, save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError


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
        wsteer.steer(base, tmp_path / f"{delta}.safetensors", k=1.5, output=tmp_path / delta)
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
