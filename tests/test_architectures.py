"""The whole chain on tiny models of other architectures; tests/bench/architectures.py runs it on all of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

import wsteer
from tests.helpers.architectures import build, save_tiny
from tests.helpers.chain import Chain, logits
from tests.helpers.files import edited
from tests.helpers.tiny import save_adapter
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.checkpoints.names import file_names
from wsteer.deltas.delta import fitted
from wsteer.errors import WsteerError

# two members of each kind: renamed in memory, experts stacked, weights cut, towers, names of their own
KINDS = (
    *("exaone", "gpt_neox", "phimoe", "qwen3_next", "lara_mini", "hrm_text"),
    *("qwen3_5", "llava", "qwen2_audio", "mamba", "mpt"),
)
NO_BLOCKS = "HrmTextForCausalLM has no list of 16 decoder blocks that wsteer could find"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_closes(tmp_path: Path, kind: str) -> None:
    cells = Chain(tmp_path, kind).cells()
    refused = {command: value for command, value in cells.items() if isinstance(value, str)}
    assert refused == ({"actvec": NO_BLOCKS} if kind == "hrm_text" else {})
    assert all(value < 2e-5 for value in cells.values() if not isinstance(value, str)), cells
    assert cells["eval --delta"] == 0


def _both(folder: Path) -> tuple[Path, Path]:
    """A model of text and images, and its language model alone."""
    both = build("qwen3_vl")
    both.save_pretrained(folder / "both")
    sizes = both.config.text_config.to_dict()
    kept = {key: value for key, value in sizes.items() if key not in ("model_type", "rope_parameters", "rope_scaling")}
    text = Qwen3ForCausalLM(Qwen3Config(**{**kept, "tie_word_embeddings": False}))
    text.model.load_state_dict(both.model.language_model.state_dict())
    text.lm_head.weight.data.copy_(both.lm_head.weight)
    text.save_pretrained(folder / "text")
    return folder / "text", folder / "both"


@pytest.mark.slow
def test_an_adapter_of_a_language_model_is_used_beside_towers_and_back(tmp_path: Path) -> None:
    text, both = _both(tmp_path)
    pos = save_adapter(tmp_path / "pos", text, 1, std=0.2, target_modules=["q_proj", "down_proj"])
    wsteer.diff(pos, output=tmp_path / "of_text.safetensors")
    report = wsteer.steer(both, tmp_path / "of_text.safetensors", k=1.0, output=tmp_path / "steered")
    assert "has towers (vision) beside its language model" in report.warnings[0]
    wsteer.steer(text, tmp_path / "of_text.safetensors", k=1.0, output=tmp_path / "alone")
    name = "layers.1.mlp.down_proj.weight"
    here = load_file(tmp_path / "steered" / "model.safetensors")[f"model.language_model.{name}"]
    alone = load_file(tmp_path / "alone" / "model.safetensors")[f"model.{name}"]
    factors = {
        side: load_file(pos / "adapter_model.safetensors")[
            f"base_model.model.model.{name.removesuffix('weight')}lora_{side}.weight"
        ].double()
        for side in "AB"
    }
    base = open_checkpoint(text).tensors[f"model.{name}"]
    start = load_file(base.file)[base.name].double()
    expected = start + 2 * factors["B"] @ factors["A"]
    assert torch.equal(here, alone)
    torch.testing.assert_close(alone.double(), expected, rtol=1e-6, atol=1e-6)
    # and back: a change made beside towers, on the language model alone
    wsteer.diff(tmp_path / "steered", both, tmp_path / "of_both.safetensors", selection=wsteer.Selection(layers=[0, 1]))
    wsteer.steer(text, tmp_path / "of_both.safetensors", k=1.0, output=tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")[f"model.{name}"]
    torch.testing.assert_close(back.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_change_of_towers_does_not_fit_a_model_of_text(tmp_path: Path) -> None:
    text, both = _both(tmp_path)
    pos = save_adapter(tmp_path / "pos", text, 1, target_modules=["q_proj"])
    wsteer.diff(pos, output=tmp_path / "w.safetensors")
    delta = wsteer.Delta.load(tmp_path / "w.safetensors")
    tower = wsteer.Delta.of_tensors({"model.visual.blocks.0.attn.qkv.weight": torch.ones(96, 32)})
    (delta + tower).save(tmp_path / "both.safetensors")
    wsteer.steer(both, tmp_path / "both.safetensors", k=1.0, output=tmp_path / "steered")
    with pytest.raises(WsteerError, match=r"visual.*no tower of images or sound"):
        wsteer.steer(text, tmp_path / "both.safetensors", k=1.0, output=tmp_path / "x")
    only = wsteer.Selection(exclude="visual")
    wsteer.steer(text, tmp_path / "both.safetensors", k=1.0, output=tmp_path / "y", selection=only)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3_vl", "gemma3"])
def test_layers_are_blocks_of_the_language_model(tmp_path: Path, kind: str) -> None:
    """The towers have as many blocks, or more: none of them is a layer."""
    base = save_tiny(tmp_path / "base", kind)
    tensors = {
        name: torch.ones(entry.shape) for name, entry in open_checkpoint(base).tensors.items() if len(entry.shape) == 2
    }
    wsteer.Delta.of_tensors(tensors).save(tmp_path / "w.safetensors")
    before = _stored(base)
    wsteer.steer(
        base, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "one", selection=wsteer.Selection(layers=[1])
    )
    changed = {name for name, tensor in _stored(tmp_path / "one").items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in tensors if ".layers.1." in name and "vision" not in name}
    scaled = wsteer.Selection(layer_scale=(0.5, 2.0))
    wsteer.steer(base, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "scaled", selection=scaled)
    after = _stored(tmp_path / "scaled")
    for name in tensors:
        layer = ".layers.1." in name and "vision" not in name
        torch.testing.assert_close(after[name] - before[name], torch.full_like(after[name], 2.0 if layer else 0.5))


@pytest.mark.slow
def test_an_adapter_of_experts_is_written_for_peft(tmp_path: Path) -> None:
    chain = Chain(tmp_path, "qwen3_moe")
    chain.steer()
    assert any(".experts.3." in name for name in wsteer.Delta.load(chain.delta).terms)
    assert chain.adapter() < 1e-5


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_model_of_text_and_images_answers_text(tmp_path: Path) -> None:
    """transformers has no causal class for it: it is loaded by the class that its config names."""
    base = save_tiny(tmp_path / "base", "internvl")
    loaded = wsteer.load(base, "cpu")
    assert type(loaded.model).__name__ == "InternVLForConditionalGeneration"
    torch.testing.assert_close(logits(loaded.model), logits(build("internvl")), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_towers_are_known_from_configs_as_the_hub_has_them(tmp_path: Path) -> None:
    """Older configs of models with towers name no model_type for them, and have no text_config."""
    text, both = _both(tmp_path)
    config = json.loads((both / "config.json").read_text())
    del config["vision_config"]["model_type"]
    (both / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(both).towers == ("vision",)
    pos = save_adapter(tmp_path / "pos", text, 1, target_modules=["q_proj"])
    entry = {"role": "base", **open_checkpoint(text).identity}
    (pos / "wsteer.json").write_text(json.dumps({"inputs": [entry]}))  # as finetune records it
    wsteer.diff(pos, output=tmp_path / "w.safetensors")
    report = wsteer.steer(both, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "steered")
    assert report.parameters_changed == 2
    # and a fine-tune of the one with towers, recorded, on the text alone
    entry = {"role": "base", **open_checkpoint(both).identity}
    (pos / "wsteer.json").write_text(json.dumps({"inputs": [entry]}))
    wsteer.steer(text, pos, k=1.0, output=tmp_path / "back")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mpt", "gpt_neo"])
def test_layers_are_scaled_whatever_the_config_calls_their_number(tmp_path: Path, kind: str) -> None:
    base = save_tiny(tmp_path / "base", kind)
    name = next(name for name in open_checkpoint(base).tensors if ".1." in name and name.endswith("weight"))
    shape = open_checkpoint(base).tensors[name].shape
    wsteer.Delta.of_tensors({name: torch.ones(shape)}).save(tmp_path / "w.safetensors")
    scaled = wsteer.Selection(layer_scale=(0.0, 0.5))
    wsteer.steer(base, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "out", selection=scaled)
    moved = _stored(tmp_path / "out")[name] - _stored(base)[name]
    torch.testing.assert_close(moved, torch.full(shape, 0.5))


@pytest.mark.slow
def test_a_delta_under_other_names_knows_its_blocks_again(tmp_path: Path) -> None:
    base = open_checkpoint(save_tiny(tmp_path / "base", "llava"))
    name = "layers.1.self_attn.q_proj.weight"
    delta = wsteer.Delta.of_tensors({f"model.language_model.{name}": torch.ones(64, 64)})
    fit = fitted(replace(delta, blocks="model.language_model.layers"), base)
    assert (list(fit.terms), fit.blocks) == ([f"language_model.model.{name}"], "language_model.model.layers")


@pytest.mark.slow
def test_a_class_that_is_not_of_the_config_is_left_out(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "exaone")
    edited(base / "config.json", architectures=["CLIPForImageClassification"])
    asked = "model.layers.1.self_attn.o_proj.weight"
    assert file_names([asked], open_checkpoint(base), "x") == {asked: "transformer.h.1.attn.attention.out_proj.weight"}


@pytest.mark.parametrize(
    "wrapped", ["_orig_mod.model.", "model._checkpoint_wrapped_module.", "base_model.model.model."]
)
def test_names_inside_of_wrappers_are_refused_as_peft_loads_none(tmp_path: Path, tiny: Path, wrapped: str) -> None:
    with pytest.raises(WsteerError, match=r"which .* lacks"):
        file_names([f"{wrapped}layers.0.self_attn.q_proj.weight"], open_checkpoint(tiny), "x")
