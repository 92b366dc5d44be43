"""The stored tensors of a LoRA adapter sorted by use, from their keys, which may hold the adapter's name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.tensors import FLOATS, TensorEntry

PREFIX = "base_model.model."
PIECE = (
    re.compile(  # the key of a tensor of an adapted module: module, piece, the adapter's name where it is kept, leaf
        r"(.+)\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|lora_diag|token_adapter\.trainable_tokens_delta)"
        r"(?:\.(?!(?:weight|bias)$)([^.]+))?(?:\.(weight|bias))?"
    )
)
# tensors that variants store beside their factors and that merging does not use
IGNORED = ("lora_velora_embed", "lora_monteclora_sampler")


@dataclass(frozen=True)
class SortedTensors:
    """An adapter's tensors under its own names of modules and parameters.

    `modules` holds the pieces of each adapted module (`lora_A` and so on), `replaced` the values that replace
    parameters (`modules_to_save`, biases), `copies` the weights of adapted embeddings that peft saves beside their
    factors.
    """

    modules: Mapping[str, Mapping[str, TensorEntry]]
    replaced: Mapping[str, TensorEntry]
    copies: Mapping[str, TensorEntry]


def sorted_tensors(folder: Path, entries: Mapping[str, TensorEntry]) -> SortedTensors:
    """The tensors of the adapter in `folder`.

    peft saves them without the adapter's name and loads its own state dict too, which has it
    (`lora_A.default.weight`). Raises WsteerError for several names, and for tensors that are not known.
    """
    modules: dict[str, dict[str, TensorEntry]] = {}
    replaced: dict[str, TensorEntry] = {}
    copies: dict[str, TensorEntry] = {}
    adapter = _adapter_name(folder, entries)
    for name, entry in entries.items():
        if entry.dtype not in FLOATS:
            raise WsteerError(f"{folder}: {name!r} is {entry.dtype}, not floating-point; save the adapter again")
        if not name.startswith(PREFIX):
            raise WsteerError(f"{folder}: the tensor {name!r} is not peft's; save the adapter again")
        key = name.removeprefix(PREFIX)
        match = PIECE.fullmatch(key)
        if match is not None and (match[4] != "bias" or match[2] == "lora_B"):
            piece = f"{match[2]}.bias" if match[4] == "bias" else match[2]
            pieces = modules.setdefault(match[1], {})
            if piece in pieces:
                raise WsteerError(
                    f"{folder}: {pieces[piece].name!r} and {name!r} are one tensor; save the adapter again"
                )
            pieces[piece] = entry
        elif ".original_module." in key:
            continue  # the base's own values, which peft stores beside the replacement of a resized embedding
        elif re.search(r"\.lora_\w+", key) is None:
            kept = copies if key.endswith(".base_layer.weight") else replaced
            saved = key.replace(f".modules_to_save.{adapter}.", ".").replace(".modules_to_save.", ".")
            kept[saved.replace(".base_layer.", ".")] = entry  # peft stores a resized embedding under two keys
        elif not re.search(rf"\.({'|'.join(IGNORED)})\b", key):
            raise WsteerError(
                f"{folder}: the tensor {name!r} belongs to a variant that wsteer does not know; "
                "merge the adapter in float32 and diff that"
            )
    return SortedTensors(modules, replaced, copies)


def _adapter_name(folder: Path, entries: Mapping[str, TensorEntry]) -> str:
    """The adapter's name in the keys; peft's usual name where they have none."""
    names = {match[3] for name in entries if (match := PIECE.fullmatch(name)) is not None and match[3] is not None}
    if len(names) > 1:
        raise WsteerError(
            f"{folder} holds several adapters in one file, {', '.join(map(repr, sorted(names)[:4]))}; "
            "save one of them alone"
        )
    return names.pop() if names else "default"
