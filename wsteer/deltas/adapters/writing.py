"""Low-rank changes written as a PEFT LoRA adapter that PEFT and vLLM load."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wsteer.checkpoints.checkpoint import EMBEDDINGS, Checkpoint
from wsteer.checkpoints.names import CONV1D_MODELS, CONV1D_NAMES
from wsteer.deltas.adapters.keys import PREFIX
from wsteer.deltas.adapters.reading import CONFIG, WEIGHTS
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import check_written
from wsteer.errors import WsteerError
from wsteer.files.text import write_json

# the name of the inner model, by the first part of its own names; GPT-2's files on the Hub have those names
INNER_MODELS = {
    **dict.fromkeys(("layers", "embed_tokens"), "model."),
    **dict.fromkeys(("h", "wte", "wpe", "word_embeddings"), "transformer."),
}
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's values of --max-lora-rank


def module_factors(delta: Delta, checkpoint: Checkpoint) -> dict[str, tuple[Tensor, Tensor]]:
    """(lora_B [out, r], lora_A [r, in]) by module of the model in memory; what LoRA cannot express is refused."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in delta.terms:
        module, _, leaf = name.rpartition(".")
        if not delta.is_low_rank(name) or leaf != "weight":
            raise WsteerError(
                f"{name} changes as a whole, not by factors: an adapter needs them; make the delta with wsteer diff "
                "--rank R --exclude 'norm|bias', or steer a checkpoint"
            )
        if re.search(r"\.experts\.\d+\.", name):
            raise WsteerError(f"{name}: PEFT cannot adapt the experts one by one; steer a checkpoint")
        lora_B, lora_A = delta.factors(name)
        if checkpoint.config.get("model_type") in CONV1D_MODELS and CONV1D_NAMES.search(module):
            lora_B, lora_A = lora_A.T, lora_B.T
        factors[_in_memory(module)] = (lora_B, lora_A)
    if checkpoint.tied is not None and not delta.untied:
        embedding, head = checkpoint.tied
        if embedding in delta.terms:  # an adapter changes each module separately, even tied ones
            factors[head.removesuffix(".weight")] = delta.factors(embedding)
    return factors


def _in_memory(module: str) -> str:
    """The module's path in the model that transformers builds; files saved from the inner model lack its prefix."""
    return INNER_MODELS.get(module.partition(".")[0], "") + module


def served_rank(factors: Mapping[str, tuple[Tensor, Tensor]]) -> int:
    """The least rank that vLLM accepts and that holds all factors; the largest factor's own if vLLM accepts none."""
    largest = max(lora_A.shape[0] for _, lora_A in factors.values())
    return next((rank for rank in SERVED_RANKS if rank >= largest), largest)


def adapter_bytes(factors: Mapping[str, tuple[Tensor, Tensor]]) -> int:
    """The bytes of an adapter's float32 weights: all factors are padded to one rank."""
    return 4 * served_rank(factors) * sum(lora_B.shape[0] + lora_A.shape[1] for lora_B, lora_A in factors.values())


def write_adapter(
    folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], k: float, checkpoint: Checkpoint, name: str
) -> None:
    """Write adapter_config.json and adapter_model.safetensors: LoRA with scaling 1, factors padded to one rank."""
    rank = served_rank(factors)
    tensors: dict[str, Tensor] = {}
    for module, (lora_B, lora_A) in factors.items():
        missing = rank - lora_A.shape[0]
        padded_B = torch.nn.functional.pad(check_written(module, k * lora_B), (0, missing))
        padded_A = torch.nn.functional.pad(lora_A, (0, 0, 0, missing))
        if f"{module}.weight".endswith(EMBEDDINGS):
            # an embedding's factors are stored transposed: A [r, vocabulary], B [hidden, r]
            tensors[f"{PREFIX}{module}.lora_embedding_A"] = padded_B.T.contiguous()
            tensors[f"{PREFIX}{module}.lora_embedding_B"] = padded_A.T.contiguous()
        else:
            tensors[f"{PREFIX}{module}.lora_A.weight"] = padded_A.contiguous()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = padded_B.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": checkpoint.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": checkpoint.config.get("model_type") in CONV1D_MODELS,
        "init_lora_weights": True,
        "target_modules": sorted(factors),
    }
    write_json(folder / CONFIG, config)
