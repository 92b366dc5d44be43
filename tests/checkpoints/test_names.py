"""Names of adapters and deltas, found again in the files of checkpoints; decoder blocks by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.architectures import save_tiny
from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.checkpoints.names import block_path, expert_files, file_names, layer_of, likely_path
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
    ],
)
def test_another_path_of_the_blocks_is_found_again(tmp_path: Path, stored: str, asked: str) -> None:
    base = checkpoint(tmp_path / "base", stored, "model.norm.weight" if stored.startswith("model.") else "other.weight")
    assert file_names([asked], base, "the adapter") == {asked: stored}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "asked", "stored"),
    [
        ("mixtral", "layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight"),
        ("phimoe", "model.layers.1.mlp.router.weight", "model.layers.1.block_sparse_moe.gate.weight"),
        ("exaone", "model.layers.1.self_attn.o_proj.weight", "transformer.h.1.attn.attention.out_proj.weight"),
        ("gpt_neox", "lm_head.weight", "embed_out.weight"),
        (
            "granitemoe",
            "model.layers.0.block_sparse_moe.experts.down_proj",
            "model.layers.0.block_sparse_moe.output_linear.weight",
        ),
        ("qwen3_5", f"model.{LAYER}".replace(".0.", ".1."), f"model.language_model.{LAYER}".replace(".0.", ".1.")),
        ("qwen2_vl", f"model.language_model.{LAYER}", f"model.{LAYER}"),
        ("llava", f"model.language_model.{LAYER}", f"language_model.model.{LAYER}"),
        ("llava", "lm_head.weight", "language_model.lm_head.weight"),
        (
            "gemma3",
            "model.multi_modal_projector.mm_input_projection_weight",
            "multi_modal_projector.mm_input_projection_weight",
        ),
    ],
)
def test_names_in_memory_are_found_by_transformers_conversion(
    tmp_path: Path, kind: str, asked: str, stored: str
) -> None:
    base = open_checkpoint(save_tiny(tmp_path / "base", kind))
    assert stored in base.tensors
    assert file_names([asked], base, "the adapter") == {asked: stored}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        ("llama", "model.layers"),
        ("mpt", "transformer.blocks"),
        ("opt", "model.decoder.layers"),
        ("qwen3_vl", "model.language_model.layers"),
        ("qwen2_audio", "language_model.model.layers"),
        ("smolvlm", "model.text_model.layers"),
        ("qwen2_vl", "model.layers"),
    ],
)
def test_blocks_are_those_of_the_language_model(tmp_path: Path, kind: str, blocks: str) -> None:
    base = open_checkpoint(save_tiny(tmp_path / "base", kind))
    assert block_path(base) == blocks


def test_layers_are_counted_in_one_path_alone() -> None:
    names = ["model.visual.blocks.4.attn.qkv.weight", f"model.language_model.{LAYER}", "blocks.7", "lm_head.weight"]
    blocks = likely_path(names)
    assert [layer_of(name, blocks) for name in names] == [None, 0, 7, None]


def test_all_names_move_alike(tmp_path: Path) -> None:
    """A name that exists as it is must not hide that the others are of another model."""
    base = checkpoint(tmp_path / "base", f"model.{LAYER}", "lm_head.weight")
    names = [LAYER, "lm_head.weight"]
    assert file_names(names, base, "x") == {LAYER: f"model.{LAYER}", "lm_head.weight": "lm_head.weight"}
    with pytest.raises(
        WsteerError, match=r"x changes layers\.7\.w, layers\.8\.w, layers\.9\.w and 1 more, which base lacks"
    ):
        file_names([LAYER, *(f"layers.{i}.w" for i in (7, 8, 9, 10))], base, "x")


@pytest.mark.slow
def test_a_tower_that_a_model_of_text_lacks_is_named(tmp_path: Path) -> None:
    base = open_checkpoint(save_tiny(tmp_path / "base", "llama"))
    with pytest.raises(WsteerError, match=r"visual\.blocks\.0.*no tower of images or sound; leave them out"):
        file_names([f"model.language_model.{LAYER}", "model.visual.blocks.0.attn.qkv.weight"], base, "x")


@pytest.mark.slow
def test_experts_are_listed(tmp_path: Path) -> None:
    base = open_checkpoint(save_tiny(tmp_path / "base", "mixtral"))
    path = "model.layers.0.block_sparse_moe.experts"
    fused = expert_files("model.layers.0.mlp.experts.gate_up_proj", base)
    assert fused is not None
    assert fused.experts == tuple((f"{path}.{e}.w1.weight", f"{path}.{e}.w3.weight") for e in range(4))
    assert (fused.part_rows, fused.columns) == ((96, 96), 64)
    down = expert_files("layers.0.mlp.experts.down_proj", base)
    assert down is not None
    assert down.experts == tuple((f"{path}.{e}.w2.weight",) for e in range(4))
    assert expert_files("model.layers.0.mlp.gate.weight", base) is None


@pytest.mark.parametrize("path", ["model", "language_model.model"])
def test_blocks_of_a_deeper_model_are_named_as_the_reason(tmp_path: Path, path: str) -> None:
    base = checkpoint(
        tmp_path / "base", f"{path}.{LAYER}", f"{path}.{LAYER}".replace(".0.", ".1."), num_hidden_layers=2
    )
    with pytest.raises(WsteerError, match=r"layers\.2\..*its language model has 2 blocks; was it made on another"):
        file_names([f"model.{LAYER}", f"model.{LAYER}".replace(".0.", ".2.")], base, "the adapter")
