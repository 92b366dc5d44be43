"""Records of what a run was given."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsteer.files.provenance import is_delta_file, recordable


def test_records_hold_no_absolute_path(tmp_path: Path) -> None:
    assert recordable(tmp_path / "w.safetensors") == "w.safetensors"
    assert recordable("runs/w.safetensors") == "runs/w.safetensors"


def test_only_a_safetensors_file_with_wsteers_metadata_is_a_delta_file(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "w", metadata={"wsteer": '{"format": 1}'})
    save_file({"x": torch.ones(1)}, tmp_path / "other", metadata={"format": "pt"})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sparse").write_bytes((1 << 33).to_bytes(8, "little"))
    os.truncate(tmp_path / "sparse", 1 << 34)
    assert [is_delta_file(tmp_path / name) for name in ("w", "other", "pipe", "sparse", "gone")] == [True] + [False] * 4


@pytest.mark.parametrize("header", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 10**6, b'{"__metadata__": 1}'])
def test_a_damaged_header_is_of_no_delta_file(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header)
    assert not is_delta_file(tmp_path / "w")
