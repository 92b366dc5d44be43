"""Write safetensors files tensor by tensor: the header first, then blocks of data as they are computed.

The safetensors library writes whole tensors that are all in memory, with several metadata keys in random order and
mode 0600; a delta needs none of the three.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from wsteer.checkpoint import DTYPES


def write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], blocks: Iterable[Tensor], metadata: str) -> None:
    """Write a float32 safetensors file whose one metadata key `wsteer` holds `metadata`.

    `blocks` yields the data of every tensor of `shapes`, in that order, each cut into any number of row blocks.
    """
    header: dict[str, object] = {"__metadata__": {"wsteer": metadata}}
    offset = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            file.write(raw_bytes(block.to(DTYPES["F32"])))
        if file.tell() != 8 + len(text) + offset:
            raise AssertionError(f"{path}: the blocks do not fill the tensors that the header lists")


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes, row-major, without a copy where it is contiguous."""
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())


def write_at(descriptor: int, tensor: Tensor, offset: int) -> None:
    """Write the tensor's bytes at `offset` of an open file."""
    view = raw_bytes(tensor)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)
