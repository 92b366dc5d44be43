"""Adapters are read as peft merges them; what is not plain LoRA is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.conftest import save_adapter
from wsteer.adapter import read_adapter
from wsteer.errors import WsteerError


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "model.layers.1.mlp.up_proj": 8}, "alpha_pattern": {"q_proj": 3}},
        {"target_modules": ["down_proj"], "lora_alpha": 5},
    ],
)
def test_change_equals_peft_merge(tmp_path: Path, tiny: Path, config: dict) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=3, **config)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    merged = PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False).to(torch.float64).merge_and_unload()
    after = dict(merged.named_parameters())
    factors = read_adapter(folder).factors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert factors.keys() == changed
    for name, (lora_b, lora_a) in factors.items():
        torch.testing.assert_close(lora_b.double() @ lora_a.double(), after[name] - before[name], rtol=0, atol=1e-8)


def test_base_is_recorded_by_name_and_fingerprint(adapters: tuple[Path, Path]) -> None:
    base = read_adapter(adapters[0]).base
    assert base["name"] == "tiny-llama"
    assert len(base["fingerprint"]) == 64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "Conv1D"),
        ({"r": 5}, "has rank 4"),
        ({"r": None}, "lacks the numbers"),
        ({"lora_alpha": "16"}, "lacks the numbers"),
        ({"rank_pattern": [1]}, "must be objects"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(tmp_path: Path, tiny: Path, change: dict, named: str) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(WsteerError, match=named):
        read_adapter(folder)


def test_gpt2_modules_are_refused_since_their_orientation_is_not_known(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    renamed = {
        name.replace("model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_proj"): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(renamed, path)
    with pytest.raises(WsteerError, match="Conv1D"):
        read_adapter(folder)


@pytest.mark.parametrize("record", ['{"inputs": 5}', '{"inputs": ["a"]}', "{}"])
def test_a_strange_record_beside_the_adapter_does_no_harm(tmp_path: Path, tiny: Path, record: str) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (folder / "wsteer.json").write_text(record)
    assert read_adapter(folder).base["name"] == "tiny-llama"


def test_a_base_without_safetensors_is_known_by_name_alone(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (tmp_path / "binbase").mkdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "binbase")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert read_adapter(folder).base == {"name": "binbase", "revision": None, "fingerprint": None}


def test_broken_factors_are_refused(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    for value, reason in [
        (torch.empty(0), "have shapes"),
        (torch.full_like(tensors[name], float("nan")), "NaN"),
    ]:
        save_file({**tensors, name: value}, path)
        with pytest.raises(WsteerError, match=reason):
            read_adapter(folder)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(WsteerError, match="not a factor of plain LoRA"):
        read_adapter(folder)
    for dropped, missing in ((name, "no lora_B"), (name.replace("lora_B", "lora_A"), "no lora_A")):
        save_file({key: value for key, value in tensors.items() if key != dropped}, path)
        with pytest.raises(WsteerError, match=missing):
            read_adapter(folder)
