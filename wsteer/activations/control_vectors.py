"""Control vectors of llama.cpp, repeng and EasySteer: GGUF files with one tensor `direction.N` for each block.

llama.cpp adds direction.N to the output of block N, counted from 0, and takes no file with a direction.0
(`common_control_vector_load_one`, `llama_adapter_cvec`). Its own cvector-generator writes what it read at block b as
direction.(b+1), so that it is added one block later than it was read: no file tells which was meant.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import gguf
import torch
from torch import Tensor

from wsteer.activations.vectors import MOST_BYTES, MOST_TEXT, Vectors, checked, kept_facts, without_zeros
from wsteer.errors import WsteerError, reason
from wsteer.files.limits import bounded
from wsteer.files.opening import read_whole
from wsteer.files.provenance import VECTORS_KEY

ARCHITECTURE = "controlvector"
DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,8})")
INDEX = "direction.N is added to the output of decoder block N, counted from 0"

GgufIndex = Literal["as-applied", "generator"]


def read_control_vectors(path: Path, index: GgufIndex) -> Vectors:
    """The vectors of a GGUF file; `index` says which block direction.N belongs to: N, or N - 1 for a `generator`."""
    read_whole(path, MOST_BYTES)  # refuses what is too large, and keeps the digest
    try:
        with bounded(f"reading {path}"):
            reader = gguf.GGUFReader(path)
            fields = {name: _text(field) for name, field in reader.fields.items()}
            stored = [(tensor.name, tensor.tensor_type, tensor.shape.tolist()) for tensor in reader.tensors]
            _check_kinds(path, fields, stored)
            count = reader.get_field(f"{ARCHITECTURE}.layer_count")
            generated = count is not None and count.types == [gguf.GGUFValueType.INT32]  # others write it unsigned
            # native byte order, and memory of its own: the reader maps the file
            tensors = {tensor.name: torch.from_numpy(tensor.data.astype("float32")) for tensor in reader.tensors}
    except WsteerError:
        raise
    except Exception as error:  # the reader checks little: a damaged file is an error of any kind
        raise WsteerError(f"{path} is damaged, or no GGUF file ({reason(error)}); write it again") from None
    shift = 1 if index == "generator" else 0
    by_block = {}
    for name, tensor in tensors.items():
        block = int(name.rpartition(".")[2]) - shift
        if block < 0:
            raise WsteerError(f"{path}: {name} belongs to no block with --gguf-index generator; use as-applied")
        by_block[block] = checked(path, name, tensor)
    hint = fields.get(f"{ARCHITECTURE}.model_hint")
    ours = {key.removeprefix(VECTORS_KEY): text for key, text in fields.items() if key.startswith(VECTORS_KEY)}
    first = max(by_block)
    meaning = f"direction.{first + shift} -> block {first} (the paper's layer {first + 1}); --gguf-index {index}"
    if generated and index == "as-applied":
        meaning += (
            "; it looks like a file of llama.cpp's own generator: what it read at block N is then direction.N+1, and "
            "--gguf-index generator puts it back there"
        )
    return Vectors(
        "control-vector",
        without_zeros(path, by_block),
        f"{len(by_block)} direction{'s' if len(by_block) > 1 else ''}: {meaning}",
        kept_facts(ours),
        {"gguf_index": index, "model_hint": hint if hint and len(hint) <= MOST_TEXT else None},
    )


def write_control_vectors(path: Path, by_block: Mapping[int, Tensor], hint: str, facts: Mapping[str, str]) -> None:
    """Write vectors (float32 [hidden] by block, none of block 0) as a GGUF file; `hint` is the type of the model."""
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(by_block))
    for key, text in sorted({**facts, "index": INDEX}.items()):
        writer.add_string(f"{VECTORS_KEY}{key}", text)
    for block, vector in sorted(by_block.items()):
        writer.add_tensor(f"direction.{block}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _text(field: gguf.ReaderField) -> str:
    """A field's text; nothing for a number or a list."""
    return str(field.contents()) if field.types == [gguf.GGUFValueType.STRING] else ""


def _check_kinds(path: Path, fields: Mapping[str, str], stored: list) -> None:
    """Refuse what is no control vector, or what llama.cpp would not take for one."""
    architecture = fields.get("general.architecture", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise WsteerError(f"{path} is of the kind {architecture[:80]!r}, and no control vector; give one")
    if not stored:
        raise WsteerError(f"{path} holds no direction; make it again")
    for name, kind, shape in stored:
        if not DIRECTION.fullmatch(name):
            raise WsteerError(f"{path}: the tensor {name[:80]!r} is no direction.N, with which llama.cpp takes no file")
        if kind != gguf.GGMLQuantizationType.F32:
            raise WsteerError(f"{path}: {name} is {kind.name}, and llama.cpp takes F32 alone; write it unquantised")
        if len(shape) != 1:
            raise WsteerError(f"{path}: {name} has shape {shape}, and one vector [hidden] is needed")
