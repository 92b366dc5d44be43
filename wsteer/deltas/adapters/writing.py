"""Low-rank changes written as a PEFT LoRA adapter that PEFT and vLLM load."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
class ParameterFactors:
    """The factors of one parameter in memory as peft stores them: lora_B [out, experts·r], lora_A [experts·r, in].

    Expert e of a parameter that stacks experts has rows e·r to (e+1)·r of A, and of B every experts-th column from e on
    (peft's ParamWrapper). `key` is the path under which peft stores them.
    """

    lora_B: Tensor
    lora_A: Tensor
    key: str
    experts: int = 1
    embedding: bool = False  # its factors are stored transposed
    by_name: bool = False  # of no layer that peft knows: it adapts the parameter by name, as of experts and routers

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.lora_A.shape[0] // self.experts

    def padded(self, rank: int) -> tuple[Tensor, Tensor]:
        """(lora_B, lora_A) with zeros up to this rank."""
        missing = rank - self.rank
        of_B = self.lora_B.reshape(self.lora_B.shape[0], self.rank, self.experts)
        of_A = self.lora_A.reshape(self.experts, self.rank, self.lora_A.shape[1])
        padded_B = torch.nn.functional.pad(of_B, (0, 0, 0, missing)).flatten(1)
        return padded_B, torch.nn.functional.pad(of_A, (0, 0, 0, missing)).flatten(0, 1)


Factors = tuple[Tensor, Tensor]


def parameter_factors(delta: Delta, checkpoint: Checkpoint) -> dict[str, ParameterFactors]:
    """The factors by parameter of the model in memory; what LoRA cannot express is refused.

    The model is of the class that the checkpoint's config names, which peft's users and servers load.
    """
    conversions = conversions_of(checkpoint)
    if not conversions:
        raise WsteerError(f"transformers cannot build {checkpoint.name}, so that no adapter for it can be loaded")
    conversion = conversions[-1]
    found: dict[str, dict[int, list[Factors]]] = defaultdict(lambda: defaultdict(list))
    for name in delta.terms:
        if not delta.is_low_rank(name):
            raise WsteerError(
                f"{name} changes as a whole, not by factors: an adapter needs them; make the delta with wsteer diff "
                "--rank R --exclude 'norm|bias', or steer a checkpoint"
            )
        parts = conversion.of_tensor.get(name) or [Part(name, conversion.renamed(name)[0])]
        for part in parts:
            expert, factors = _of_part(conversion, part, *delta.factors(name))
            found[part.parameter][expert].append(factors)
    if checkpoint.tied is not None and not delta.untied:
        embedding, head = checkpoint.tied
        if embedding in delta.terms:  # an adapter changes each module separately, even tied ones
            part = Part(head, conversion.renamed(head)[0])
            found[part.parameter] = {0: [_of_part(conversion, part, *delta.factors(embedding))[1]]}
    return {name: _peft_factors(conversion, name, by_expert, found) for name, by_expert in found.items()}


def _of_part(conversion: Conversion, part: Part, lora_B: Tensor, lora_A: Tensor) -> tuple[int, Factors]:
    """The expert (0 where there are none) and the factors of a part of a file's tensor that lora_B @ lora_A changes."""
    path = part.parameter.rpartition(".")[0]
    if part.parameter not in conversion.shapes:
        raise WsteerError(f"{part.tensor}: the model in memory has no {part.parameter}; steer a checkpoint")
    module = conversion.model.get_submodule(path)
    if part.swapped or isinstance(module, CONVOLUTIONS):
        kind = type(module).__name__
        raise WsteerError(f"{part.tensor}: PEFT has no such LoRA for {path}, a {kind}; steer a checkpoint")
    expert, rows = 0, slice(None)
    for index in part.index:
        if isinstance(index, int):
            expert = index
        else:
            rows = index
    own_B = lora_B if part.rows is None else lora_B[part.rows[0] : part.rows[1]]
    if rows != slice(None):  # rows of a larger weight in memory
        whole = torch.zeros(conversion.shapes[part.parameter][-2], lora_B.shape[1])
        whole[rows] = own_B
        own_B = whole
    return expert, ((lora_A.T, own_B.T) if isinstance(module, Conv1D) else (own_B, lora_A))  # Conv1D: [in, out]


def _peft_factors(
    conversion: Conversion, name: str, by_expert: Mapping[int, Sequence[Factors]], adapted: Collection[str]
) -> ParameterFactors:
    path, _, leaf = name.rpartition(".")
    module, shape = conversion.model.get_submodule(path), conversion.shapes[name]
    experts = shape[0] if len(shape) == 3 else 1
    sums = {expert: _sum(factors) for expert, factors in by_expert.items()}
    if isinstance(module, nn.Linear | nn.Embedding | Conv1D) and leaf == "weight":
        return ParameterFactors(*sums[0], path, embedding=isinstance(module, nn.Embedding))
    rank = max(lora_A.shape[0] for _, lora_A in sums.values())
    of_B, of_A = torch.zeros(shape[-2], rank, experts), torch.zeros(experts, rank, shape[-1])
    for expert, (lora_B, lora_A) in sums.items():
        of_B[:, : lora_B.shape[1], expert], of_A[expert, : lora_A.shape[0]] = lora_B, lora_A
    # peft wraps a module once for each parameter that it adapts of it, in their order: the first is the innermost
    later = [each for each, _ in module.named_parameters(recurse=False)]
    wrapped = [each for each in later[later.index(leaf) + 1 :] if f"{path}.{each}" in adapted]
    key = path + ".base_layer" * len(wrapped)
    return ParameterFactors(of_B.flatten(1), of_A.flatten(0, 1), key, experts, by_name=True)


def _sum(factors: Sequence[Factors]) -> Factors:
    """The factors of the sum of products: concatenated along the rank, those with one lora_A added."""
    together: list[Factors] = []
    for lora_B, lora_A in factors:
        for place, (other_B, other_A) in enumerate(together):
            if torch.equal(lora_A, other_A):
                together[place] = (other_B + lora_B, other_A)
                break
        else:
            together.append((lora_B, lora_A))
    return torch.cat([lora_B for lora_B, _ in together], dim=1), torch.cat([lora_A for _, lora_A in together])


def served_rank(factors: Mapping[str, ParameterFactors]) -> int:
    """The least rank that vLLM accepts and that holds all factors; the largest factor's own if vLLM accepts none."""
    largest = max(each.rank for each in factors.values())
    return next((rank for rank in SERVED_RANKS if rank >= largest), largest)


def adapter_bytes(factors: Mapping[str, ParameterFactors]) -> int:
    """The bytes of an adapter's float32 weights: all factors are padded to one rank."""
    sides = sum(each.experts * (each.lora_B.shape[0] + each.lora_A.shape[1]) for each in factors.values())
    return 4 * served_rank(factors) * sides


def write_adapter(
    folder: Path, factors: Mapping[str, ParameterFactors], k: float, checkpoint: Checkpoint, name: str
) -> None:
    """Write adapter_config.json and adapter_model.safetensors: LoRA with scaling 1, factors padded to one rank."""
    rank = served_rank(factors)
    tensors: dict[str, Tensor] = {}
    for parameter, each in factors.items():
        lora_B, lora_A = each.padded(rank)
        lora_B = check_written(parameter, k * lora_B)
        if each.embedding:
            # an embedding's factors are stored transposed: A [r, vocabulary], B [hidden, r]
            tensors[f"{PREFIX}{each.key}.lora_embedding_A"] = lora_B.T.contiguous()
            tensors[f"{PREFIX}{each.key}.lora_embedding_B"] = lora_A.T.contiguous()
        else:
            tensors[f"{PREFIX}{each.key}.lora_A.weight"] = lora_A.contiguous()
            tensors[f"{PREFIX}{each.key}.lora_B.weight"] = lora_B.contiguous()
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
        "target_modules": sorted(each.key for each in factors.values() if not each.by_name),
        "target_parameters": sorted(parameter for parameter, each in factors.items() if each.by_name) or None,
    }
    write_json(folder / CONFIG, config)
