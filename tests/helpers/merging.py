"""Adapters as peft makes them, and what peft's own merge makes of them."""

import json
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import wsteer
from tests.helpers.tiny import SIZES

MOE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def save_architecture(folder: Path, model_type: str, **changes: object) -> Path:
    """A tiny random checkpoint of any architecture that transformers knows."""
    torch.manual_seed(0)
    sizes = {**SIZES, "tie_word_embeddings": False, **MOE.get(model_type, {}), **changes}
    if model_type == "gpt2":
        sizes = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "vocab_size": SIZES["vocab_size"],
            **changes,
        }
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))  # so that biases and norms are not all alike
    model.save_pretrained(folder)
    return folder


def train(model: nn.Module, folder: Path, seed: int = 0, **config: object) -> Path:
    """An adapter whose trainable values are moved at random, saved by peft."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    adapted.save_pretrained(folder)
    return folder


def adapter_on(base: Path, folder: Path, **config: object) -> Path:
    """A moved adapter on the checkpoint `base`."""
    return train(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder, **config)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that a model runs with, float64: parameters, and the head where it is another tensor."""
    found = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    return {**found, "the head": model.get_output_embeddings().weight.detach().double()}


def steered_weights(base: Path, adapter: Path, folder: Path) -> dict[str, Tensor]:
    """The weights of the float32 checkpoint that diff and steer make of an adapter, as transformers loads it."""
    wsteer.diff(adapter, output=folder / "t.safetensors", force=True)
    wsteer.steer(base, folder / "t.safetensors", k=1, output=folder / "steered", force=True)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder / "steered", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return weights(model)


def check_equals_peft(base: Path, adapter: Path, folder: Path) -> None:
    """The steered checkpoint has the weights of peft's merge, and differs from the base."""
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = weights(original)
    merged = weights(PeftModel.from_pretrained(original, adapter).merge_and_unload())
    after = steered_weights(base, adapter, folder)
    assert after.keys() == merged.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    config = json.loads((adapter / "adapter_config.json").read_text())
    decomposed = config.get("kasa_config") or isinstance(config["init_lora_weights"], str)
    atol = 2e-5 if decomposed else 2e-6  # peft decomposes the base in float32, and the transpose of some layers
    for name, expected in merged.items():
        torch.testing.assert_close(
            after[name], expected, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
