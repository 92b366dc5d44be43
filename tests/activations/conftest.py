"""Fixtures of the room: a delta file of activation vectors."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.vectors import random_vectors
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta


@pytest.fixture
def vectors(tmp_path: Path, tiny: Path) -> Path:
    """A delta file of vectors of all blocks of the tiny model."""
    delta = Delta.of_tensors({f"blocks.{block}": each for block, each in random_vectors().items()}, "activation")
    replace(delta, base=open_checkpoint(tiny).identity, positions="answer").save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"
