"""A model on disk or on the Hub: find its folder, list its tensors from the file headers, read ranges of rows."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from wsteer.errors import WsteerError

INDEX = "model.safetensors.index.json"
HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library itself
BLOCK_BYTES = 4 << 20  # float32 bytes of the blocks of rows in which tensors are streamed

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: bytes `begin` to `end` of `file`, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint folder, known from its headers alone."""

    folder: Path
    name: str
    revision: str | None
    tensors: dict[str, TensorEntry]

    @cached_property
    def config(self) -> dict:
        """config.json as it stands."""
        return read_json(self.folder / "config.json")

    @cached_property
    def shards(self) -> list[Path]:
        """The weight files, in name order."""
        return sorted({entry.file for entry in self.tensors.values()})

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the sorted (name, shape) of the tensors: equal for every fine-tune of one architecture."""
        names = sorted((name, list(entry.shape)) for name, entry in self.tensors.items())
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str | None]:
        """The base as delta files and records name it."""
        return {"name": self.name, "revision": self.revision, "fingerprint": self.fingerprint}

    def parameters(self) -> dict[str, TensorEntry]:
        """The tensors, each tied one once: a stored `lm_head.weight` that loading ties to the embedding is left out."""
        tied = self.config.get("tie_word_embeddings", False)
        return {name: entry for name, entry in self.tensors.items() if not (tied and name == "lm_head.weight")}


def read_json(path: Path) -> dict:
    """The JSON object in `path`; a missing or broken file is one clear error."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WsteerError(f"{path} is missing") from None
    except OSError as error:
        raise WsteerError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise WsteerError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise WsteerError(f"{path} does not hold a JSON object")
    return value


def fetch(reference: str | Path) -> tuple[Path, str | None]:
    """The local folder of a model or adapter and, for one from the Hub, its resolved commit.

    `reference` is a folder, else `org/name` or `org/name@revision` on the Hub.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path, None
    if path.exists():
        raise WsteerError(f"{reference} is a file; a model folder or a Hub id (org/name) is needed")
    name, _, revision = str(reference).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise WsteerError(f"{reference} does not exist; give a model folder or a Hub id (org/name)")
    # weights in other formats, and code, are never needed: neither is fetched
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WsteerError(f"{reference} is neither a folder nor to be had from the Hub: {reason}") from error
    return folder, folder.name


def open_checkpoint(reference: str | Path) -> Checkpoint:
    """The checkpoint that `reference` names, its headers read and checked."""
    folder, revision = fetch(reference)
    name = hub_name(reference) or local_name(reference)
    tensors: dict[str, TensorEntry] = {}
    for shard in find_shards(folder):
        entries, _ = read_header(shard)
        for tensor_name in entries.keys() & tensors.keys():
            raise WsteerError(
                f"{folder}: {tensor_name!r} stands in two files, {tensors[tensor_name].file.name} and {shard.name}"
            )
        tensors.update(entries)
    return Checkpoint(folder, name, revision, tensors)


def hub_name(reference: str | Path) -> str | None:
    """The `org/name` of a reference to the Hub, without its revision; None for a folder."""
    return None if Path(reference).expanduser().is_dir() else str(reference).partition("@")[0]


def local_name(reference: str | Path) -> str:
    """A folder as records name it: as given where that is relative and says something, else its last part."""
    path = Path(reference).expanduser()
    return str(path) if not path.is_absolute() and path.name not in ("", "..") else path.resolve().name


def find_shards(folder: Path) -> list[Path]:
    """The safetensors files that hold the model in `folder`, by its index where it has one."""
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise WsteerError(f"{folder / INDEX} has no weight_map; download the model again")
        names = {str(name) for name in weight_map.values()}
        for name in names:
            # the index is input: a name that climbs out of the folder must not be followed
            if Path(name).name != name:
                raise WsteerError(f"{folder / INDEX} names {name!r}, which is not a plain file name")
    elif (folder / "model.safetensors").exists():
        names = {"model.safetensors"}
    else:
        names = {path.name for path in folder.glob("model-*-of-*.safetensors")}
    if not names:
        raise WsteerError(f"{folder} holds no model.safetensors; save the model with save_pretrained first")
    for name in names:
        if not (folder / name).exists():
            raise WsteerError(f"{folder / name} is missing, though {INDEX} names it; download the model again")
    return sorted(folder / name for name in names)


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors and the metadata that a safetensors file's header lists, checked against the file's size.

    The format: 8 bytes of little-endian header length, a JSON header with byte offsets, then the data.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(HEADER_LIMIT, size - 8):
                raise WsteerError(f"{path} is truncated or not a safetensors file; write or download it again")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise WsteerError(f"{path} does not exist") from None
    except OSError as error:
        raise WsteerError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise WsteerError(f"{path} is not a safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise WsteerError(f"{path} is not a safetensors file: its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(fields, dict) for fields in (metadata, *header.values())):
        raise WsteerError(f"{path} is not a safetensors file: its header does not hold objects")
    entries = {name: _entry(name, fields, path, 8 + length) for name, fields in header.items()}
    end = max((entry.end for entry in entries.values()), default=8 + length)
    if end > size:
        raise WsteerError(
            f"{path} is truncated: its header needs {end} bytes, it has {size}; write or download it again"
        )
    return entries, metadata


def _entry(name: str, fields: dict, path: Path, start: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
        # dtypes that torch lacks pass through wsteer untouched, so only the known ones can be checked
        expected = math.prod(shape) * DTYPES[dtype].itemsize if dtype in DTYPES else end - begin
        sound = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        sound = sound and begin <= end and end - begin == expected
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise WsteerError(
            f"{path} is damaged: the header's entry for {name!r} does not add up; write or download it again"
        )
    return TensorEntry(name, dtype, shape, path, start + begin, start + end)


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Row ranges (start, stop) that cover a tensor of `shape` in blocks of about `BLOCK_BYTES` of float32.

    The blocks depend on the shape alone: matrix products over them give the same bits wherever they are computed.
    """
    rows = (shape[0] if shape else 1) if math.prod(shape) else 0
    row_bytes = 4 * math.prod(shape[1:])
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def read_rows(entry: TensorEntry, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of a stored tensor, in its own dtype: shape [stop - start, ...]; a scalar has one row."""
    trailing = entry.shape[1:]
    row_bytes = math.prod(trailing) * DTYPES[entry.dtype].itemsize
    buffer = torch.empty((stop - start) * row_bytes, dtype=torch.uint8)
    with open(entry.file, "rb", buffering=0) as file:
        view = memoryview(buffer.numpy())
        file.seek(entry.begin + start * row_bytes)
        # plain reads keep the resident set to this buffer, where mmap would not; a read may return less than asked
        while view:
            count = file.readinto(view)
            if count == 0:
                raise WsteerError(f"{entry.file} ends before {entry.name!r} does; write or download it again")
            view = view[count:]
    return buffer.view(DTYPES[entry.dtype]).view(stop - start, *trailing)


def read_tensor(entry: TensorEntry) -> Tensor:
    """A whole stored tensor, in its own dtype and shape."""
    rows = entry.shape[0] if entry.shape else 1
    return read_rows(entry, 0, rows).view(entry.shape)
