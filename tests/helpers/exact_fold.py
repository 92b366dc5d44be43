"""The independent computation that steered checkpoints are held against."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers.checkpoint_contents import stored_tensors


def adapter_factors(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """For each parameter (alpha/r · B, A) of a plain LoRA adapter, straight from its files."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    modules = {name.split(".lora_")[0] for name in tensors}
    scale = config["lora_alpha"] / config["r"]
    return {
        module.removeprefix("base_model.model.") + ".weight": (
            scale * tensors[f"{module}.lora_B.weight"],
            tensors[f"{module}.lora_A.weight"],
        )
        for module in modules
    }


def check_bf16_fold(base: Path, steered: Path, pos: Path, neg: Path, k: float) -> None:
    """Every bfloat16 tensor of `steered` is θ + k(s⁺B⁺A⁺ - s⁻B⁻A⁻), computed in float64 here, rounded once.

    99.9% of the entries are equal in bits; the rest lie within half an ulp and float32's error, which is relative to
    the products that are summed: θ and the parts of the change may nearly cancel.
    """
    factors = [adapter_factors(folder) for folder in (pos, neg)]
    before, after = stored_tensors(base), stored_tensors(steered)
    assert before.keys() == after.keys()
    equal = entries = changed = 0
    for name, theta in before.items():
        if name not in factors[0]:
            assert torch.equal(theta, after[name])
            continue
        (b_pos, a_pos), (b_neg, a_neg) = ([part.double() for part in side[name]] for side in factors)
        exact = theta.double() + k * (b_pos @ a_pos - b_neg @ a_neg)
        summed = theta.double().abs() + abs(k) * (b_pos.abs() @ a_pos.abs() + b_neg.abs() @ a_neg.abs())
        allowed = exact.abs() * 2**-8 + summed * 2**-22
        assert ((after[name].double() - exact).abs() <= allowed).all(), name
        equal += int((after[name] == exact.bfloat16()).sum())
        entries += exact.numel()
        changed += int((after[name] != theta).sum())
    assert equal >= 0.999 * entries
    assert changed > 0.3 * entries
