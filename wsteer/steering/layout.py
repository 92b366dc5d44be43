"""The weight files of a checkpoint to be written: where each tensor is placed, and where its bytes come from.

A file keeps the header and the offsets of the base's file, unless tensors are added to it or change their dtype, or the
base's file has PyTorch's format. Then it is a new safetensors file with the base's tensors in the base's order.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import INDEX, PICKLED_INDEX, Checkpoint
from wsteer.files.tensors import DTYPES, FLOATS, TensorEntry
from wsteer.files.text import read_json

NEVER_COPIED = (INDEX, PICKLED_INDEX)
SINGLE = "model.safetensors"  # the only weight file that is found without an index


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of an output file, at byte `begin`; its values come from `source`, or are zero if that is None.

    `copy_of`: the embedding, if this is a stored copy of it, a head tied to it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    source: TensorEntry | None
    copy_of: str | None = None

    @property
    def parameter(self) -> str:
        """The parameter whose change it takes, and under whose name it is rounded: copies stay equal bit for bit."""
        return self.copy_of or self.name

    @property
    def size(self) -> int:
        """Its size in bytes."""
        if self.dtype in DTYPES:
            return math.prod(self.shape) * DTYPES[self.dtype].itemsize
        if self.source is None:
            raise AssertionError(f"{self.name} has no values of dtype {self.dtype}, which torch lacks")
        return self.source.end - self.source.begin  # copied unchanged


@dataclass(frozen=True)
class OutputFile:
    """One weight file to be written. `kept`: the base's file whose layout and unchanged bytes it has, if any."""

    name: str
    header: bytes
    tensors: tuple[OutputTensor, ...]
    size: int
    kept: Path | None


def output_files(
    checkpoint: Checkpoint, added: Mapping[str, OutputTensor], copies: Mapping[str, str], dtype: str | None
) -> list[OutputFile]:
    """The files of the output: the base's, with its floating-point tensors in `dtype` and `added` tensors in the last.

    The added tensors' `begin` is set here. `copies`: tensors that are copies of others, and of which.
    """
    files = []
    for shard in checkpoint.shards:
        entries = sorted((e for e in checkpoint.tensors.values() if e.file == shard), key=lambda entry: entry.begin)
        extra = list(added.values()) if shard == checkpoint.shards[-1] else []
        recast = dtype is not None and any(entry.dtype in FLOATS and entry.dtype != dtype for entry in entries)
        if shard.suffix == ".safetensors" and not extra and not recast:
            tensors = tuple(OutputTensor(e.name, e.dtype, e.shape, e.begin, e, copies.get(e.name)) for e in entries)
            files.append(OutputFile(shard.name, b"", tensors, shard.stat().st_size, shard))
        else:
            stored = [OutputTensor(e.name, _cast(e, dtype), e.shape, 0, e, copies.get(e.name)) for e in entries]
            files.append(_new_file(shard, stored + extra))
    names = [tensor.name for file in files for tensor in file.tensors]
    if len(names) != len(set(names)):
        raise AssertionError(f"{max(names, key=names.count)} would stand twice in the output")
    return files


def changed_json(checkpoint: Checkpoint, files: list[OutputFile], config: Mapping[str, object]) -> dict[str, bytes]:
    """The JSON files that differ from the base's: the index if a header is new, and `config` if it is another."""
    changed = {}
    if config != checkpoint.config:
        changed["config.json"] = _json(config)
    if [file.name for file in files] != [SINGLE] and any(file.kept is None for file in files):
        index = checkpoint.folder / (PICKLED_INDEX if checkpoint.shards[0].suffix == ".bin" else INDEX)
        metadata = read_json(index).get("metadata") if index.exists() else None
        total = sum(tensor.size for file in files for tensor in file.tensors)
        weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
        whole = {**(metadata if isinstance(metadata, dict) else {}), "total_size": total}
        changed[INDEX] = _json({"metadata": whole, "weight_map": dict(sorted(weight_map.items()))})
    return changed


def with_setting(config: Mapping[str, object], keys: Sequence[str], value: object) -> dict[str, object]:
    """The config with `value` under the first of `keys`, and under any of them that it, or a part of it, has already.

    Parts are nested configs, as `text_config`; how a model is quantised is none.
    """
    return {**_replaced(config, keys, value), keys[0]: value}


def _replaced(config: Mapping[str, object], keys: Sequence[str], value: object) -> dict[str, object]:
    changed: dict[str, object] = {}
    for key, held in config.items():
        if key in keys:
            changed[key] = value
        elif isinstance(held, dict) and key.endswith("_config") and key != "quantization_config":
            changed[key] = _replaced(held, keys, value)
        else:
            changed[key] = held
    return changed


def _cast(entry: TensorEntry, dtype: str | None) -> str:
    return dtype if dtype is not None and entry.dtype in FLOATS else entry.dtype


def _new_file(shard: Path, tensors: list[OutputTensor]) -> OutputFile:
    """A file with a new header; tensors follow each other as listed, from a multiple of eight bytes on."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        fields[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    placed, begin = [], len(header)
    for tensor in tensors:
        placed.append(replace(tensor, begin=begin))
        begin += tensor.size
    name = shard.with_suffix(".safetensors").name
    if shard.suffix == ".bin":
        name = name.replace("pytorch_model", "model", 1)
    return OutputFile(name, header, tuple(placed), begin, None)


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()  # ASCII: a config may hold half a surrogate pair
