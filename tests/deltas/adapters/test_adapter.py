"""Adapter folders of every layout and naming: found, read under the base's names, and tied weights kept right."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import wsteer
from tests.helpers.merging import adapter_on, steered_weights, train, weights
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.adapters.adapter import read_adapter
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError


def test_adapters_of_the_inner_model_lack_its_prefix(tmp_path: Path, tiny: Path) -> None:
    inner = AutoModel.from_pretrained(tiny, dtype=torch.float32)
    folder = train(inner, tmp_path / "adapter", task_type="FEATURE_EXTRACTION")
    assert any(name.startswith("base_model.model.layers.") for name in load_file(folder / "adapter_model.safetensors"))
    merged = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny, dtype=torch.float32), folder).merge_and_unload()
    after = steered_weights(tiny, folder, tmp_path)
    for name, expected in merged.named_parameters():
        torch.testing.assert_close(after[f"model.{name}"], expected.detach().double(), rtol=0, atol=2e-6)


def test_a_named_adapter_is_found_in_its_subfolder(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="kind")
    adapted.base_model.model.model.layers[0].self_attn.q_proj.lora_B["kind"].weight.data.fill_(1.0)
    adapted.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    report = wsteer.diff(tmp_path / "out", output=tmp_path / "t.safetensors")
    assert report.parameters == 3
    shutil.copytree(tmp_path / "out" / "kind", tmp_path / "out" / "other")
    with pytest.raises(WsteerError, match="several adapters"):
        wsteer.diff(tmp_path / "out", output=tmp_path / "u.safetensors")


TIED = {
    "LoRA on the head": {"target_modules": ["lm_head", "q_proj"]},
    "LoRA on the embedding": {"target_modules": ["embed_tokens"]},
    "LoRA on both": {"target_modules": ["embed_tokens", "lm_head"]},
    "LoRA kept tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved and kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
}
STAY_TIED = ("LoRA kept tied", "saved and kept tied", "trained tokens")


@pytest.mark.slow
@pytest.mark.parametrize("shards", ["1GB", "20KB"], ids=["one file", "sharded"])
@pytest.mark.parametrize("case", list(TIED))
def test_tied_embeddings_give_the_logits_of_the_adapter(tmp_path: Path, case: str, shards: str) -> None:
    """peft's merge of a tied head or embedding is wrong, so the unmerged adapter's logits are what must come out."""
    base = save_model(tmp_path / "base", tie_word_embeddings=True, shard=shards)
    folder = adapter_on(base, tmp_path / "adapter", **TIED[case])
    tokens = torch.arange(40)[None] * 6
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(model, folder).eval()(tokens).logits
    report = wsteer.diff(folder, output=tmp_path / "t.safetensors")
    wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out")
    steered, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    with torch.no_grad():
        torch.testing.assert_close(steered(tokens).logits, adapted, rtol=0, atol=2e-5)
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        assert not torch.allclose(fresh(tokens).logits, adapted, atol=1e-3)
        with wsteer.applied(fresh, Delta.load(tmp_path / "t.safetensors")):
            torch.testing.assert_close(fresh(tokens).logits, adapted, rtol=0, atol=2e-5)
        assert fresh.get_output_embeddings().weight is fresh.get_input_embeddings().weight
    tied = json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    assert tied is (case in STAY_TIED)
    assert report.untied is not tied


def test_a_tied_tensor_counts_once_in_norms(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    folder = adapter_on(base, tmp_path / "adapter", **TIED["saved and kept tied"])
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    delta = Delta.load(tmp_path / "t.safetensors")
    assert "lm_head.weight" not in delta.terms
    stored = load_file(folder / "adapter_model.safetensors")["base_model.model.model.embed_tokens.weight"].double()
    moved = stored - load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    assert Selection(include="embed").of(delta, None).norm() == pytest.approx(float(moved.norm()), rel=1e-6)


@pytest.mark.slow
def test_what_both_sides_share_cancels_without_the_base(tmp_path: Path, tiny: Path) -> None:
    """modules_to_save, biases and PiSSA's product are told by the base, which their difference does not need."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    for config in ({"modules_to_save": ["norm"]}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}):
        sides = [adapter_on(base, tmp_path / side, seed=i, **config) for i, side in enumerate(("pos", "neg"))]
        merged = []
        for side in sides:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            merged.append(weights(PeftModel.from_pretrained(model, side).merge_and_unload()))
        moved = base.rename(tmp_path / "elsewhere")
        report = wsteer.diff(*sides, tmp_path / "w.safetensors", force=True)
        moved.rename(base)
        assert report.cos_pos_neg is None
        delta = Delta.load(tmp_path / "w.safetensors")
        for name in delta.terms:
            expected = merged[0][name] - merged[1][name]
            rows = delta.change(name).rows(0, delta.shape(name)[0]).double()
            torch.testing.assert_close(rows, expected, rtol=0, atol=2e-6)
        for side in sides:
            shutil.rmtree(side)


def test_adapters_in_pytorchs_format_are_read_without_running_code(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1)
    wsteer.diff(folder, output=tmp_path / "a.safetensors")
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    wsteer.diff(folder, output=tmp_path / "b.safetensors")
    a, b = (Delta.load(tmp_path / f"{name}.safetensors") for name in "ab")
    assert (a - b).norm() < 1e-12 * a.norm()


def test_base_is_recorded_by_name_and_fingerprint(adapters: tuple[Path, Path]) -> None:
    base = read_adapter(adapters[0]).base
    assert base["name"] == "tiny-llama"
    assert len(base["fingerprint"]) == 64


def test_saved_modules_in_16_bits_replace_the_weights_of_a_16_bit_base(tmp_path: Path) -> None:
    """peft keeps them in the model's dtype while the factors are float32: the change is from the base's own values."""
    base = save_model(tmp_path / "base", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    folder = train(model, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])
    stored, before = load_file(folder / "adapter_model.safetensors"), load_file(base / "model.safetensors")
    assert stored["base_model.model.lm_head.weight"].dtype == torch.bfloat16
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    delta = Delta.load(tmp_path / "t.safetensors")
    for name in ("lm_head.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"):
        expected = stored[f"base_model.model.{name}"].double() - before[name].double()
        assert torch.equal(delta.change(name).rows(0, expected.shape[0]).double(), expected), name
        wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out", force=True, rounding="nearest")
        assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], stored[f"base_model.model.{name}"])


@pytest.mark.parametrize("name", ["my_lora", "lora_A", "default_2"])
def test_the_name_of_an_adapter_does_not_enter_its_keys(tmp_path: Path, tiny: Path, name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]), adapter_name=name)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    adapted.save_pretrained(tmp_path / "out")
    merged, after = weights(adapted.merge_and_unload()), steered_weights(tiny, tmp_path / "out", tmp_path)
    for parameter, expected in merged.items():
        torch.testing.assert_close(after[parameter], expected, rtol=0, atol=2e-6)
