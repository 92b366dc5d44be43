"""Checkpoints are found and checked from their headers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.tiny import save_model
from wsteer.checkpoints.checkpoint import find_shards, open_checkpoint
from wsteer.errors import WsteerError


def test_sharded_checkpoint_lists_all_tensors(tiny_bf16: Path) -> None:
    checkpoint = open_checkpoint(tiny_bf16)
    assert len(checkpoint.shards) > 2
    merged = {name: tensor for shard in checkpoint.shards for name, tensor in load_file(shard).items()}
    assert merged.keys() == checkpoint.tensors.keys()
    assert checkpoint.identity["name"] == "tiny-bf16"


def test_fingerprint_is_of_names_and_shapes_alone(tmp_path: Path, tiny: Path) -> None:
    other = save_model(tmp_path / "other", seed=5, dtype=torch.bfloat16, shard="20KB")
    wider = save_model(tmp_path / "wider", intermediate_size=64)
    assert open_checkpoint(tiny).fingerprint == open_checkpoint(other).fingerprint
    assert open_checkpoint(tiny).fingerprint != open_checkpoint(wider).fingerprint


def test_a_tied_head_that_is_stored_all_the_same_counts_once(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tied", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    assert "lm_head.weight" in checkpoint.tensors
    assert "lm_head.weight" not in checkpoint.parameters()


def test_index_cannot_leave_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(WsteerError, match="not a plain file name"):
        find_shards(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 5}, {"a": None}])
def test_strange_index_is_one_error(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WsteerError, match=r"weight_map|missing"):
        find_shards(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(WsteerError, match=r"gone\.safetensors is missing"):
        find_shards(tmp_path)


@pytest.mark.parametrize("reference", ["no/such/folder", "nothing", "../x", "org/not-to-be-had@main"])
def test_what_is_no_model_is_one_error(reference: str) -> None:
    with pytest.raises(WsteerError, match="Hub"):
        open_checkpoint(reference)


def test_hub_id_resolves_from_the_cache_to_its_commit(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(tiny)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    checkpoint = open_checkpoint("org/tiny@main")
    assert (checkpoint.name, checkpoint.revision) == ("org/tiny", commit)
    assert checkpoint.tensors.keys() == open_checkpoint(tiny).tensors.keys()
