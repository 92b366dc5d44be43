"""Names of adapters and models in memory, found again in the files of checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.checkpoints.names import expert_files, file_names, in_memory
from wsteer.errors import WsteerError

LAYER = "layers.0.self_attn.q_proj.weight"


def checkpoint(folder: Path, *names: str, **config: object) -> Checkpoint:
    folder.mkdir(parents=True)
    save_file({name: torch.ones(2, 2) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        (f"model.{LAYER}", f"model.{LAYER}"),
        (f"model.{LAYER}", LAYER),
        (LAYER, f"model.{LAYER}"),
        ("h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"),
        ("transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        ("gpt_neox.layers.0.attention.dense.weight", "layers.0.attention.dense.weight"),
        (f"language_model.model.{LAYER}", f"model.language_model.{LAYER}"),
        (f"model.language_model.{LAYER}", f"language_model.model.{LAYER}"),
        (f"model.language_model.{LAYER}", f"language_model.{LAYER}"),
        ("model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.gate.weight"),
        ("model.layers.0.block_sparse_moe.gate.weight", "layers.0.mlp.gate.weight"),
    ],
)
def test_a_prefix_or_an_older_path_is_found_again(tmp_path: Path, stored: str, asked: str) -> None:
    base = checkpoint(tmp_path / "base", stored, "model.norm.weight" if stored.startswith("model.") else "other.weight")
    assert file_names([asked], base, "the adapter") == {asked: stored}


def test_all_names_move_alike(tmp_path: Path) -> None:
    """A name that exists as it is must not hide that the others are of another model."""
    base = checkpoint(tmp_path / "base", f"model.{LAYER}", "lm_head.weight")
    names = [LAYER, "lm_head.weight"]
    assert file_names(names, base, "x") == {LAYER: f"model.{LAYER}", "lm_head.weight": "lm_head.weight"}
    with pytest.raises(
        WsteerError, match=r"x changes layers\.7\.w, layers\.8\.w, layers\.9\.w and 1 more, which base lacks"
    ):
        file_names([LAYER, *(f"layers.{i}.w" for i in (7, 8, 9, 10))], base, "x")


def test_experts_are_listed_and_found_in_memory(tmp_path: Path) -> None:
    path = "model.layers.0.block_sparse_moe.experts"
    names = [f"{path}.{expert}.{part}.weight" for expert in range(3) for part in ("w1", "w2", "w3")]
    base = checkpoint(tmp_path / "base", *names)
    fused = expert_files("model.layers.0.mlp.experts.gate_up_proj", base)
    assert fused.experts == tuple((f"{path}.{e}.w1.weight", f"{path}.{e}.w3.weight") for e in range(3))
    assert (fused.part_rows, fused.columns) == ((2, 2), 2)
    assert expert_files("layers.0.mlp.experts.down_proj", base).experts == tuple(
        (f"{path}.{e}.w2.weight",) for e in range(3)
    )
    assert expert_files("model.layers.0.mlp.gate.weight", base) is None
    shapes = {"model.layers.0.mlp.experts.gate_up_proj": (3, 4, 2), "model.layers.0.mlp.experts.down_proj": (3, 2, 2)}
    found = [in_memory(f"{path}.2.{part}.weight", shapes, "model") for part in ("w1", "w3", "w2")]
    assert found == [
        ("model.layers.0.mlp.experts.gate_up_proj", (2, slice(0, 2))),
        ("model.layers.0.mlp.experts.gate_up_proj", (2, slice(2, 4))),
        ("model.layers.0.mlp.experts.down_proj", (2, slice(0, 2))),
    ]
    with pytest.raises(KeyError):
        in_memory("model.layers.0.mlp.router.weight", shapes, "model")
