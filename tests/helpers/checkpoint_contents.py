"""Checkpoint folders read back: their tensors, their bytes, their logits."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

TOKENS = torch.arange(40)[None] * 6


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, as stored."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def same_weights(one: Path, other: Path) -> bool:
    """Whether both folders hold the same weight files, byte for byte."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names == sorted(path.name for path in other.glob("*.safetensors"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def logits(folder: Path, dtype: torch.dtype = torch.float64) -> Tensor:
    """The logits of a checkpoint that loads without a missing or an unexpected tensor."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        return model.eval()(TOKENS).logits
