"""Fixtures of steering's tests."""

from pathlib import Path

import pytest

import wsteer
from tests.helpers.tiny import save_adapter


@pytest.fixture(scope="session")
def small(tiny_bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bfloat16 base and a delta that is small beside its ulps."""
    folder = tmp_path_factory.mktemp("small")
    pos, neg = (save_adapter(folder / side, tiny_bf16, seed, std=2e-3) for seed, side in enumerate(("pos", "neg")))
    wsteer.diff(pos, neg, folder / "w.safetensors")
    return tiny_bf16, folder / "w.safetensors"
