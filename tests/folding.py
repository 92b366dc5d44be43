"""The independent computation that steered checkpoints are held against."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, as stored."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


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
    """Every bfloat16 tensor of `steered` is float32 θ + k(s⁺B⁺A⁺ - s⁻B⁻A⁻), rounded once.

    99.9% of the entries are equal in bits; the rest differ by one ulp, or by float32's own rounding where θ and the
    change nearly cancel and the result's ulp is below that.
    """
    factors = [adapter_factors(folder) for folder in (pos, neg)]
    before, after = stored_tensors(base), stored_tensors(steered)
    assert before.keys() == after.keys()
    equal = entries = changed = 0
    for name, theta in before.items():
        if name not in factors[0]:
            assert torch.equal(theta, after[name])
            continue
        (b_pos, a_pos), (b_neg, a_neg) = (side[name] for side in factors)
        expected = (theta.float() + k * (b_pos @ a_pos - b_neg @ a_neg)).bfloat16()
        allowed = torch.maximum(expected.float().abs() * 2**-7, theta.float().abs() * 2**-20)
        assert ((after[name].float() - expected.float()).abs() <= allowed).all(), name
        equal += int((after[name] == expected).sum())
        entries += expected.numel()
        changed += int((after[name] != theta).sum())
    assert equal >= 0.999 * entries
    assert changed > 0.3 * entries
