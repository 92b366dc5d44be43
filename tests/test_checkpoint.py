"""Checkpoints are found and checked from their headers, and read in rows."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import save_model
from wsteer.checkpoints.checkpoint import find_shards, open_checkpoint
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
