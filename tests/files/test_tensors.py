"""Weight files: tensors and rows read as stored, damaged headers named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsteer.errors import WsteerError
from wsteer.files.tensors import read_header, read_rows, read_tensor, row_blocks


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_tensors_and_rows_are_read_as_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": (10 * torch.randn(7, 5)).to(dtype), "b": torch.arange(3).to(dtype), "c": torch.tensor(2).to(dtype)}
    save_file(tensors, tmp_path / "x.safetensors")
    entries, _ = read_header(tmp_path / "x.safetensors")
    assert entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read_tensor(entries[name]), tensor)
    assert torch.equal(read_rows(entries["a"], 2, 5), tensors["a"][2:5])


def test_row_blocks_cover_every_row_once() -> None:
    for shape in [(), (5,), (3_000_000,), (5000, 4096), (1, 10_000_000), (3, 2, 2)]:
        rows = [row for start, stop in row_blocks(shape) for row in range(start, stop)]
        assert rows == list(range(shape[0] if shape else 1))
    assert len(list(row_blocks((5000, 4096)))) > 1


def test_truncated_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for broken, reason in [
        (whole[:-1], "is truncated"),
        (whole[:4], "is truncated"),
        (whole[:20], "is truncated"),
        (b"\x10" + bytes(7) + b"no json at all!!" + bytes(8), "header is not JSON"),
        (whole.replace(b"[0,400]", b"[0,404]"), "does not add up"),
        (whole.replace(b"[0,400]", b"[9,400]"), "does not add up"),
        (whole.replace(b"[100]", b"[1e2]"), "does not add up"),
        (whole[:8] + b"[" * (len(whole) - 8), "is not"),
    ]:
        path.write_bytes(broken)
        with pytest.raises(WsteerError, match=reason) as raised:
            read_header(path)
        assert "x.safetensors" in str(raised.value)
