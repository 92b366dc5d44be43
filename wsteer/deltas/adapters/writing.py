"""Low-rank changes written as a PEFT LoRA adapter that PEFT and vLLM load."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.conversion import Conversion, Part
from wsteer.checkpoints.names import CONV1D_MODELS, conversions_of
from wsteer.deltas.adapters.keys import PREFIX
from wsteer.deltas.adapters.reading import CONFIG, WEIGHTS
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import check_written
from wsteer.errors import WsteerError
from wsteer.files.text import write_json

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's values of --max-lora-rank


@dataclass(frozen=True)
class ModuleFactors:
    """One module of the adapter: lora_B [out, r] and lora_A [r, in], as peft's layer uses them."""

    lora_B: Tensor
    lora_A: Tensor
    embedding: bool = False  # its factors are stored transposed
    by_name: bool = False  # no layer that peft knows, but a parameter that it adapts by name, as of a router


def module_factors(delta: Delta, checkpoint: Checkpoint) -> dict[str, ModuleFactors]:
    """The factors by module of the model in memory; what LoRA cannot express is refused.

    The model is of the class that the checkpoint's config names, which peft's users and servers load.
    """
    conversions = conversions_of(checkpoint)
    if not conversions:
        raise WsteerError(f"transformers cannot build {checkpoint.name}, so that no adapter for it can be loaded")
    conversion = conversions[-1]
    found: dict[str, list[ModuleFactors]] = defaultdict(list)
    for name in delta.terms:
        if not delta.is_low_rank(name):
            raise WsteerError(
                f"{name} changes as a whole, not by factors: an adapter needs them; make the delta with wsteer diff "
                "--rank R --exclude 'norm|bias', or steer a checkpoint"
            )
        parts = conversion.of_tensor.get(name) or [Part(name, conversion.renamed(name)[0])]
        for module, factors in _of_modules(conversion, parts, *delta.factors(name)):
            found[module].append(factors)
    if checkpoint.tied is not None and not delta.untied:
        embedding, head = checkpoint.tied
        if embedding in delta.terms:  # an adapter changes each module separately, even tied ones
            parts = [Part(head, conversion.renamed(head)[0])]
            found.update({module: [each] for module, each in _of_modules(conversion, parts, *delta.factors(embedding))})
    return {module: _sum(factors) for module, factors in found.items()}


def _of_modules(
    conversion: Conversion, parts: Sequence[Part], lora_B: Tensor, lora_A: Tensor
) -> Iterator[tuple[str, ModuleFactors]]:
    """The factors of each module that holds a part of the file's tensor whose change is lora_B @ lora_A."""
    for part in parts:
        path, _, leaf = part.parameter.rpartition(".")
        if part.parameter not in conversion.shapes:
            raise WsteerError(f"{part.tensor}: the model in memory has no {part.parameter}; steer a checkpoint")
        module = conversion.model.get_submodule(path)
        kind = type(module).__name__
        if part.index and isinstance(part.index[0], int):
            raise WsteerError(f"{part.tensor}: PEFT cannot adapt the experts one by one; steer a checkpoint")
        known = isinstance(module, (nn.Linear, nn.Embedding, Conv1D))
        if leaf != "weight" or part.swapped or isinstance(module, CONVOLUTIONS):
            raise WsteerError(f"{part.tensor}: PEFT has no such LoRA for {path}, a {kind}; steer a checkpoint")
        own_B = lora_B if part.rows is None else lora_B[part.rows[0] : part.rows[1]]
        if part.index:  # rows of a larger weight in memory
            own_B = torch.zeros(conversion.shapes[part.parameter][0], lora_B.shape[1])
            own_B[part.index] = lora_B
        if isinstance(module, Conv1D):  # its weight is stored as [in, out]
            yield path, ModuleFactors(lora_A.T, own_B.T)
        else:
            yield path, ModuleFactors(own_B, lora_A, isinstance(module, nn.Embedding), by_name=not known)


def _sum(factors: Sequence[ModuleFactors]) -> ModuleFactors:
    """The factors of the sum of products, concatenated along the rank."""
    if len(factors) == 1:
        return factors[0]
    lora_B = torch.cat([each.lora_B for each in factors], dim=1)
    return replace(factors[0], lora_B=lora_B, lora_A=torch.cat([each.lora_A for each in factors]))


def served_rank(factors: Mapping[str, ModuleFactors]) -> int:
    """The least rank that vLLM accepts and that holds all factors; the largest factor's own if vLLM accepts none."""
    largest = max(each.lora_A.shape[0] for each in factors.values())
    return next((rank for rank in SERVED_RANKS if rank >= largest), largest)


def adapter_bytes(factors: Mapping[str, ModuleFactors]) -> int:
    """The bytes of an adapter's float32 weights: all factors are padded to one rank."""
    sides = sum(each.lora_B.shape[0] + each.lora_A.shape[1] for each in factors.values())
    return 4 * served_rank(factors) * sides


def write_adapter(
    folder: Path, factors: Mapping[str, ModuleFactors], k: float, checkpoint: Checkpoint, name: str
) -> None:
    """Write adapter_config.json and adapter_model.safetensors: LoRA with scaling 1, factors padded to one rank."""
    rank = served_rank(factors)
    tensors: dict[str, Tensor] = {}
    for module, each in factors.items():
        missing = rank - each.lora_A.shape[0]
        padded_B = torch.nn.functional.pad(check_written(module, k * each.lora_B), (0, missing))
        padded_A = torch.nn.functional.pad(each.lora_A, (0, 0, 0, missing))
        if each.embedding:
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
        "fan_in_fan_out": checkpoint.config.get("model_type") in CONV1D_MODELS,  # peft sets it by layer
        "init_lora_weights": True,
        "target_modules": sorted(module for module, each in factors.items() if not each.by_name),
        "target_parameters": sorted(f"{module}.weight" for module, each in factors.items() if each.by_name) or None,
    }
    write_json(folder / CONFIG, config)
