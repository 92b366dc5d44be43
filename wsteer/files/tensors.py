"""Weight files: the tensors listed from the header alone, their rows read in blocks, safetensors written in blocks.

The safetensors library reads through mmap, which keeps a file resident, and can only write tensors that are all in
memory. Streaming must avoid both.
"""

import errno
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.files.limits import bounded
from wsteer.files.opening import regular, remember
from wsteer.files.text import DuplicateKey, parse_json, without_duplicates

HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library itself
BLOCK_BYTES = 2 << 20  # float32 bytes of the blocks of rows in which tensors are streamed
COPY_BYTES = 16 << 20
# limits of a weight's shape: the number of sides, and the product of those that are not 0 (torch's strides overflow)
MOST_SIDES = 16
LARGEST_PRODUCT = 1 << 60

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
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}
# bits of the dtypes that safetensors has beside these; such tensors are copied unchanged
OTHER_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
OTHER_BITS |= {"U16": 16, "U32": 32, "U64": 64, "C64": 64}
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor is stored: bytes `begin` to `end` of `file`, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors and the metadata that a safetensors file's header lists; refused where the safetensors library does.

    The format: 8 bytes of little-endian header length, a JSON header with byte offsets, then the data, of which every
    byte belongs to one tensor.
    """
    with regular(path) as file:
        remember(path, file)
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            raise WsteerError(f"{path} is truncated or not a safetensors file; write or download it again")
        content = file.read(length)
    try:
        header = parse_json(content.decode(), without_duplicates)
    except DuplicateKey as error:
        raise WsteerError(f"{path} is damaged: its header names {error.key!r} twice; write it again") from None
    except ValueError as error:
        raise WsteerError(f"{path} is not a safetensors file: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise WsteerError(f"{path} is not a safetensors file: its header is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not all(isinstance(fields, dict) for fields in (metadata, *header.values())):
        raise WsteerError(f"{path} is not a safetensors file: its header does not hold objects")
    if not all(isinstance(text, str) for text in metadata.values()):
        raise WsteerError(f"{path} is not a safetensors file: its metadata holds more than texts")
    entries = {name: _entry(name, fields, path, 8 + length) for name, fields in header.items()}
    _check_extents(path, entries, 8 + length, size)
    return entries, metadata


def _entry(name: str, fields: dict, path: Path, start: int) -> TensorEntry:
    try:
        name.encode()  # a lone surrogate can be written in JSON, but neither printed nor stored
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        sound = _adds_up(dtype, shape, begin, end)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise WsteerError(
            f"{path} is damaged: the header's entry for {name!r} does not add up; write or download it again"
        )
    return TensorEntry(name, dtype, tuple(shape), path, start + begin, start + end)


def _adds_up(dtype: object, shape: object, begin: Any, end: Any) -> bool:
    """Whether a header's entry has the right types, and as many bytes as its shape needs."""
    if not isinstance(dtype, str) or not isinstance(shape, list) or len(shape) > MOST_SIDES:
        return False
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        return False
    if math.prod(max(side, 1) for side in shape) > LARGEST_PRODUCT:
        return False
    # a newer safetensors may have more dtypes; their tensors are copied unchanged
    bits = 8 * DTYPES[dtype].itemsize if dtype in DTYPES else OTHER_BITS.get(dtype)
    return begin <= end and (bits is None or 8 * (end - begin) == bits * math.prod(shape))


def _check_extents(path: Path, entries: Mapping[str, TensorEntry], start: int, size: int) -> None:
    position = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin < position:
            raise WsteerError(f"{path} is damaged: {entry.name!r} overlaps another tensor; write or download it again")
        if entry.begin > position:
            raise WsteerError(
                f"{path} is damaged: {entry.begin - position} bytes before {entry.name!r} belong to no tensor; "
                "write or download it again"
            )
        position = entry.end
    if position > size:
        raise WsteerError(
            f"{path} is truncated: its header needs {position} bytes, it has {size}; write or download it again"
        )
    if position < size:
        raise WsteerError(
            f"{path} is damaged: its last {size - position} bytes belong to no tensor; write or download it again"
        )


def read_pickled_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a PyTorch `.bin` file, from its pickle read with `weights_only`: no code runs, no data is loaded.

    PyTorch's files are zip archives with uncompressed members, so rows can be read in place.
    """
    again = "convert it with transformers: save_pretrained writes safetensors"
    with regular(path) as file:
        remember(path, file)
        size = os.fstat(file.fileno()).st_size
    stored = unpickled(path, path, "meta", again)
    if not isinstance(stored, dict) or not all(_is_named_tensor(*item) for item in stored.items()):
        raise WsteerError(f"{path} does not hold a plain dictionary of named tensors; {again}")
    return {name: _pickled_entry(path, name, tensor, size) for name, tensor in stored.items()}


def unpickled(path: Path, source: Path | bytes, device: str, again: str) -> object:
    """What the PyTorch file `path` holds, read from `source` with `weights_only`, so that none of its code runs.

    `source` is the path itself, or the file's content.

    Raises WsteerError, which ends in `again`, how to have the file in another form.
    """
    try:
        with bounded(f"reading the list of tensors in {path}", 20):
            file: Path | io.BytesIO = io.BytesIO(source) if isinstance(source, bytes) else source
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise WsteerError(f"{path} is compressed, which PyTorch never writes; {again}")
            if any(record.filename.endswith("data.pkl") and record.file_size > HEADER_LIMIT for record in records):
                raise WsteerError(f"{path} has a list of tensors beyond 100 MB; {again}")
            if isinstance(file, io.BytesIO):
                file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except (OSError, zipfile.BadZipFile):
        raise WsteerError(f"{path} is no PyTorch file, or one older than PyTorch 1.6; {again}") from None
    except WsteerError:
        raise
    except Exception as error:  # torch checks little, and its message advises unsafe loading
        raise WsteerError(f"{path} holds more than tensors, or is damaged, and is not loaded; {again}") from error


def _is_named_tensor(name: object, tensor: object) -> bool:
    return isinstance(name, str) and name.isprintable() and isinstance(tensor, Tensor)


def _pickled_entry(path: Path, name: str, tensor: Tensor, size: int) -> TensorEntry:
    dense = tensor.layout == torch.strided and not tensor.is_neg()
    begin = getattr(tensor.untyped_storage(), "_checkpoint_offset", None) if dense else None
    if begin is None or not tensor.is_contiguous() or tensor.dtype not in DTYPE_CODES:
        raise WsteerError(f"{path}: {name!r} is not stored row by row; convert the model to safetensors")
    begin += tensor.storage_offset() * tensor.element_size()
    end = begin + tensor.numel() * tensor.element_size()
    if end > size:
        raise WsteerError(f"{path} is truncated: {name!r} ends at byte {end}, it has {size}; download it again")
    return TensorEntry(name, DTYPE_CODES[tensor.dtype], tuple(tensor.shape), path, begin, end)


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Row ranges (start, stop) that cover a tensor of `shape` in blocks of about `BLOCK_BYTES` of float32.

    The blocks depend only on the shape, so matrix products over them give the same bits wherever they are computed.
    """
    rows = (shape[0] if shape else 1) if math.prod(shape) else 0
    row_bytes = 4 * math.prod(shape[1:])
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def read_rows(entry: TensorEntry, start: int, stop: int, memory: Tensor | None = None) -> Tensor:
    """Rows `start` to `stop` of a stored tensor, in its own dtype: shape [stop - start, ...]; a scalar has one row.

    The result is in `memory`, of that shape and dtype, if it is given.
    """
    trailing = entry.shape[1:]
    row_bytes = math.prod(trailing) * DTYPES[entry.dtype].itemsize
    rows = torch.empty(stop - start, *trailing, dtype=DTYPES[entry.dtype]) if memory is None else memory
    view, offset = raw_bytes(rows), entry.begin + start * row_bytes
    descriptor = os.open(entry.file, os.O_RDONLY)
    try:
        # plain reads, unlike mmap, keep only this buffer resident; a read may return fewer bytes than asked
        while view:
            count = os.preadv(descriptor, [view], offset)
            if count == 0:
                raise WsteerError(f"{entry.file} ends before {entry.name!r} does; write or download it again")
            view, offset = view[count:], offset + count
    finally:
        os.close(descriptor)
    return rows


def read_tensor(entry: TensorEntry) -> Tensor:
    """A whole stored tensor, in its own dtype and shape."""
    rows = entry.shape[0] if entry.shape else 1
    return read_rows(entry, 0, rows).view(entry.shape)


def equal_tensors(first: TensorEntry, second: TensorEntry) -> bool:
    """Whether two stored tensors of floating-point numbers have one shape and the same values, whatever their dtypes.

    Reading stops at the first block of rows that differs.
    """
    if first.shape != second.shape or not {first.dtype, second.dtype} <= set(FLOATS):
        return False
    if (first.file, first.begin, first.dtype) == (second.file, second.begin, second.dtype):
        return True
    return all(
        torch.equal(read_rows(first, *rows).double(), read_rows(second, *rows).double())
        for rows in row_blocks(first.shape)
    )


class TensorWriter:
    """Writes a float32 safetensors file of tensors that are computed block by block; the last one can be dropped again.

    Space for the header is reserved at the front: for all of `shapes`, and metadata as long as `metadata`.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: str) -> None:
        self._path = path
        self._shapes = dict(shapes)
        sizes = [4 * math.prod(shape) for shape in shapes.values()]
        begins = accumulate(sizes, initial=0)
        largest = _header(dict(zip(shapes, begins, strict=False)), self._shapes, metadata)
        self._room = -(-len(largest) // 8) * 8
        self._begins: dict[str, int] = {}  # where the tensors written so far begin, in order
        self._position = 0
        self._file = open(path, "wb")  # noqa: SIM115  closed by `__exit__`
        self._file.seek(8 + self._room)

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    def add(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Write a tensor, given as row blocks in order, of any number."""
        begin = self._position
        for block in blocks:
            self._position += self._file.write(raw_bytes(block.to(torch.float32)))
        if self._position - begin != 4 * math.prod(self._shapes[name]):
            raise AssertionError(f"the blocks of {name} do not fill the tensor")
        self._begins[name] = begin

    def drop_last(self) -> None:
        """Remove the tensor that was added last."""
        self._position = self._begins.popitem()[1]
        self._file.seek(8 + self._room + self._position)

    def finish(self, metadata: str) -> None:
        """Write the header, whose one metadata key `wsteer` holds `metadata`, and read it again."""
        header = _header(self._begins, self._shapes, metadata)
        self._file.truncate(8 + self._room + self._position)
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
        if len(header) > self._room:
            raise AssertionError("the metadata outgrew the room that was kept for it")
        self._file.flush()
        if read_header(self._path)[0].keys() != self._begins.keys():
            raise AssertionError(f"{self._path} does not hold the tensors that were written")


def _header(begins: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], metadata: str) -> bytes:
    """A safetensors header of float32 tensors that begin at these bytes of the data."""
    header: dict[str, object] = {"__metadata__": {"wsteer": metadata}}
    for name, begin in begins.items():
        offsets = [begin, begin + 4 * math.prod(shapes[name])]
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": offsets}
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def copy_range(source: int, begin: int, target: int, offset: int, length: int) -> None:
    """Copy `length` bytes from `begin` of one open file to `offset` of another, in the kernel where it can."""
    while length:
        size = min(length, COPY_BYTES)
        try:
            count = os.copy_file_range(source, target, size, begin, offset)
        except (AttributeError, OSError) as error:  # macOS lacks the call; Linux may refuse it across file systems
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            count = os.pwrite(target, os.pread(source, min(size, BLOCK_BYTES), begin), offset)
        if count == 0:
            raise WsteerError("the base's file became shorter while it was read; steer again")
        begin, offset, length = begin + count, offset + count, length - count


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes, row-major, without a copy where it is contiguous."""
    if not tensor.is_contiguous() or not tensor.dim():
        tensor = tensor.contiguous().flatten()
    return tensor.view(torch.uint8).numpy().data.cast("B") if tensor.numel() else memoryview(b"")


def write_at(descriptor: int, tensor: Tensor, offset: int) -> None:
    """Write the tensor's bytes at `offset` of an open file."""
    view = raw_bytes(tensor)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)
