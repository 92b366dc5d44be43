"""What steer writes besides checkpoints: adapters and deltas."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.checkpoint_contents import TOKENS, logits
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.merging import EXPERTS, adapter_on, save_architecture, train
from tests.helpers.tiny import SIZES, save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.steering.export import export


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_gives_the_logits_of_the_folded_model(tmp_path: Path, tied: bool) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=tied)
    targets = {"target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    pos, neg = (
        save_adapter(tmp_path / side, base, seed, std=0.1, use_rslora=seed == 1, **targets)
        for seed, side in enumerate(("pos", "neg"))
    )
    wsteer.diff(pos, neg, tmp_path / "w.safetensors")
    report = export(base, tmp_path / "w.safetensors", k=-1.5, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(base, tmp_path / "w.safetensors", k=-1.5, output=tmp_path / "folded")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], report.rank) == (8, 8, False, 8)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        adapted = model.eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=2e-5)
    assert wsteer.diff(tmp_path / "adapter", output=tmp_path / "back.safetensors").low_rank == report.parameters
    back, w = Delta.load(tmp_path / "back.safetensors"), Delta.load(tmp_path / "w.safetensors")
    assert (back - -1.5 * w).norm() < 1e-6 * w.norm()


@pytest.mark.slow
@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["embed_tokens", "lm_head"], ["lm_head"]])
@pytest.mark.parametrize("kept", [True, False], ids=["kept tied", "untied"])
def test_an_adapter_of_a_tied_base_gives_the_logits_of_the_folded_model(
    tmp_path: Path, targets: list[str], kept: bool
) -> None:
    """An adapter's modules change one by one: a change of the one tied tensor takes factors of both."""
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    folder = adapter_on(base, tmp_path / "pos", target_modules=targets, ensure_weight_tying=kept)
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    assert Delta.load(tmp_path / "t.safetensors").untied is not kept
    export(base, tmp_path / "t.safetensors", k=-1.5, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(base, tmp_path / "t.safetensors", k=-1.5, output=tmp_path / "folded")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        adapted = model.eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=5e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_an_adapter_for_files_of_the_inner_model_names_the_whole_ones_modules(tmp_path: Path, model_type: str) -> None:
    """peft loads an adapter of other names without an error, and leaves the model as it was."""
    whole = save_architecture(tmp_path / "whole", model_type, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    model.base_model.save_pretrained(tmp_path / "inner")
    folder = train(model, tmp_path / "pos", target_modules=["q_proj", "c_attn"])
    wsteer.diff(folder, output=tmp_path / "t.safetensors", base=tmp_path / "inner")
    names = Delta.load(tmp_path / "t.safetensors").terms
    assert all(name.startswith(("layers.", "h.")) for name in names)
    export(tmp_path / "inner", tmp_path / "t.safetensors", k=1, output=tmp_path / "adapter", form="adapter")
    both = []
    for adapter in (folder, tmp_path / "adapter"):
        fresh = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
        with torch.no_grad():
            both.append(PeftModel.from_pretrained(fresh, adapter).eval()(TOKENS).logits)
    torch.testing.assert_close(both[1], both[0], rtol=0, atol=2e-5)
    assert not torch.allclose(both[0], logits(whole, torch.float32), atol=1e-4)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_an_adapter_of_routers_and_experts_is_loaded_by_peft(tmp_path: Path, model_type: str) -> None:
    base = save_architecture(tmp_path / "base", model_type)
    config = {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight", *EXPERTS]}
    folder = adapter_on(base, tmp_path / "pos", **config)
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    export(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "folded")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        adapted = model.eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=5e-5)


def test_an_adapter_of_gpt2_has_its_orientation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=SIZES["vocab_size"])
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    pos = save_adapter(tmp_path / "pos", tmp_path / "base", 0, std=0.1, target_modules=["c_attn", "c_proj", "c_fc"])
    wsteer.diff(pos, output=tmp_path / "t.safetensors")
    export(tmp_path / "base", tmp_path / "t.safetensors", k=2, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(tmp_path / "base", tmp_path / "t.safetensors", k=2, output=tmp_path / "folded")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=2e-5)


def test_the_rank_is_padded_to_one_that_vllm_accepts(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, 0, r=10, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3})
    wsteer.diff(pos, output=tmp_path / "t.safetensors")
    export(tiny, tmp_path / "t.safetensors", sweep=[-1, 1], output=tmp_path / "out", form="adapter")
    for name in ("k-1", "k1"):
        tensors = load_file(tmp_path / "out" / name / "adapter_model.safetensors")
        assert {tensor.shape[0] for key, tensor in tensors.items() if "lora_A" in key} == {16}
    with pytest.raises(WsteerError, match="changes as a whole"):
        Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "dense.safetensors")
        export(tiny, tmp_path / "dense.safetensors", k=1, output=tmp_path / "x", form="adapter")


def test_sums_and_multiples_of_deltas_as_a_delta(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    for side, name in zip(adapters, "pn", strict=True):
        wsteer.diff(side, output=tmp_path / f"{name}.safetensors")
    paths = [tmp_path / "p.safetensors", tmp_path / "n.safetensors"]
    report = export(tiny, paths, k=[2, -0.5], output=tmp_path / "sum.safetensors", form="delta")
    written = Delta.load(report.output)
    pos, neg = (adapter_factors(side) for side in adapters)
    for name in pos:
        (b_pos, a_pos), (b_neg, a_neg) = ([factor.double() for factor in side[name]] for side in (pos, neg))
        expected = 2 * b_pos @ a_pos - 0.5 * b_neg @ a_neg
        change = written.change(name).rows(0, expected.shape[0]).double()
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-7)
    assert (written.kind, written.options["k"]) == ("combination", [2.0, -0.5])
