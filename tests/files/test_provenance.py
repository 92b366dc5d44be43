"""Records of what a run was given."""

from pathlib import Path

from wsteer.files.provenance import recordable


def test_records_hold_no_absolute_path(tmp_path: Path) -> None:
    assert recordable(tmp_path / "w.safetensors") == "w.safetensors"
    assert recordable("runs/w.safetensors") == "runs/w.safetensors"
