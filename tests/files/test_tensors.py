"""Weight files: tensors and rows read as stored, damaged headers named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tests.helpers.files import framed
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files import tensors
from wsteer.files.tensors import equal_tensors, read_header, read_rows, read_tensor, row_blocks


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


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    """A header's entry of a tensor in these bytes."""
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


HEADERS = {
    "sound": ({"a": entry(0, 8), "b": entry(8, 16)}, 16),
    "in another order": ({"b": entry(8, 16), "a": entry(0, 8)}, 16),
    "a gap": ({"a": entry(0, 8), "b": entry(12, 20)}, 20),
    "a gap before all": ({"a": entry(4, 8)}, 8),
    "an overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12),
    "bytes behind all": ({"a": entry(0, 8)}, 12),
    "bytes of no tensor": ({}, 4),
    "nothing": ({}, 0),
    "cut": ({"a": entry(0, 8)}, 4),
    "no rows": ({"a": entry(0, 0, [0, 5]), "b": entry(0, 4), "c": entry(4, 4, [0])}, 4),
    "no rows inside another": ({"a": entry(0, 8), "b": entry(4, 4, [0])}, 8),
    "no rows beyond the end": ({"a": entry(0, 4), "b": entry(8, 8, [0])}, 4),
    "a scalar": ({"a": entry(0, 4, [])}, 4),
    "half bytes": ({"a": entry(0, 4, [8], "F4")}, 4),
    "an odd number of half bytes": ({"a": entry(0, 4, [7], "F4")}, 4),
    "a small dtype that torch lacks": ({"a": entry(0, 4, [4], "F8_E8M0")}, 4),
    "that dtype in too many bytes": ({"a": entry(0, 8, [4], "F8_E8M0")}, 8),
    "metadata": ({"__metadata__": {"format": "pt"}, "a": entry(0, 4)}, 4),
    "no metadata": ({"__metadata__": None, "a": entry(0, 4)}, 4),
    "metadata of numbers": ({"__metadata__": {"format": 1}, "a": entry(0, 4)}, 4),
}


@pytest.mark.parametrize("case", list(HEADERS))
def test_a_header_is_taken_exactly_where_safetensors_takes_it(tmp_path: Path, case: str) -> None:
    header, size = HEADERS[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(framed(json.dumps(header).encode(), bytes(size)))
    try:
        with safe_open(path, "pt") as file:
            taken = set(file.keys())
    except SafetensorError:
        with pytest.raises(WsteerError, match=r"write or download it again|metadata holds more than texts"):
            read_header(path)
    else:
        assert set(read_header(path)[0]) == taken


def test_equal_tensors_have_equal_values_whatever_their_dtypes(tmp_path: Path) -> None:
    value = torch.randn(40_000, 16).bfloat16()  # several blocks of rows
    other = value.clone()
    other[-1, -1] += 1
    stored = {"a": value, "b": value.float(), "c": other, "d": value.flatten().clone(), "e": torch.ones(2).int()}
    save_file(stored, tmp_path / "x.safetensors")
    entries, _ = read_header(tmp_path / "x.safetensors")
    assert [name for name in stored if equal_tensors(entries["a"], entries[name])] == ["a", "b"]


def test_a_writer_reads_its_own_header_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that safetensors would refuse never gets a name; here the tensor begins a byte late."""
    real = tensors._header

    def late(begins: dict[str, int], *rest: object) -> bytes:
        return real({name: begin + 1 for name, begin in begins.items()}, *rest)

    monkeypatch.setattr(tensors, "_header", late)
    with pytest.raises(WsteerError, match="1 bytes before 'w' belong to no tensor"):
        Delta.of_tensors({"w": torch.ones(2, 2)}).save(tmp_path / "d.safetensors")
    assert list(tmp_path.iterdir()) == []
