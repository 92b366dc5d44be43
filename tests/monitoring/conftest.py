"""Fixtures of monitoring's tests."""

import shutil
from pathlib import Path

import pytest

import wsteer
from tests.helpers.drifting_run import STEPS, drift


@pytest.fixture
def run(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> Path:
    """A training folder that drifts towards w, the first adapter; its end is in the folder itself."""
    for step, share in zip(STEPS, (0.0, 0.4, 0.8), strict=True):
        drift(tmp_path / "run" / f"checkpoint-{step}", tiny, adapters[0], share)
    shutil.copytree(tmp_path / "run" / "checkpoint-10", tmp_path / "end")
    for path in (tmp_path / "end").iterdir():
        shutil.copy(path, tmp_path / "run" / path.name)
    return tmp_path / "run"


@pytest.fixture
def w(tmp_path: Path, adapters: tuple[Path, Path]) -> Path:
    """The delta of the first adapter."""
    wsteer.diff(adapters[0], output=tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"
