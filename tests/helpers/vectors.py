"""Files of activation vectors as other tools write them, and the vectors in a delta file."""

from pathlib import Path

import gguf
import numpy
import torch

from wsteer.deltas.delta import Delta


def random_vectors(blocks: int = 3, size: int = 32) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {block: torch.randn(size, generator=generator) for block in range(blocks)}


def by_block(path: Path) -> dict[int, torch.Tensor]:
    delta = Delta.load(path)
    return {int(name.split(".")[1]): delta.change(name).rows(0, 32) for name in delta.terms}


def rows_file(path: Path, rows: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A file as persona-vectors writes it: [blocks + 1, hidden]."""
    tensor = torch.randn(rows, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.save(tensor, path)
    return tensor


def gguf_file(path: Path, directions: dict[str, numpy.ndarray], architecture: str = "controlvector") -> Path:
    """A control vector as repeng's `export_gguf` writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for name, each in directions.items():
        writer.add_tensor(name, each)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def steered_file(path: Path, **changes: object) -> torch.Tensor:
    """A file for lm-evaluation-harness's `steered` model, with one vector at block 1."""
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(2))
    info = {"steering_vector": vector, "steering_coefficient": -2.5, "action": "add", "bias": None, "head_index": None}
    torch.save({changes.pop("hookpoint", "layers.1"): {**info, **changes}}, path)
    return vector
