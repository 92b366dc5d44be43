"""Files that were made to harm: refused in one line, no code run, no memory taken."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import wsteer
from tests.helpers.files import framed
from tests.helpers.tiny import save_adapter
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.tensors import read_header


def entry(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "longer than the file": framed(b"{}", length=1000),
    "beyond 100 MB": framed(b"{}", length=2**40),
    "nothing": b"",
    "not UTF-8": framed(b'{"\xff": 1}'),
    "not JSON": framed(b"{,}"),
    "a list": framed(b"[]"),
    "deep": framed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a name twice": framed(b'{"a":' + json.dumps(entry([1], 0, 4)).encode() + b',"a":{}}', b"\0" * 4),
    "a lone surrogate": framed(b'{"\\ud800":' + json.dumps(entry([1], 0, 4)).encode() + b"}", b"\0" * 4),
    "overlapping": framed(json.dumps({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}).encode(), b"\0" * 12),
    "out of range": framed(json.dumps({"a": entry([2], 0, 8)}).encode(), b"\0" * 4),
    "a negative offset": framed(json.dumps({"a": entry([2], -8, 0)}).encode(), b"\0" * 8),
    "a negative shape": framed(json.dumps({"a": entry([-2], 0, 8)}).encode(), b"\0" * 8),
    "two negative sides": framed(json.dumps({"a": entry([-2, -1], 0, 8)}).encode(), b"\0" * 8),
    "a huge shape": framed(json.dumps({"a": entry([2**62, 2**62], 0, 8)}).encode(), b"\0" * 8),
    "a huge empty shape": framed(json.dumps({"a": entry([0, 2**62], 0, 0)}).encode()),
    "a huge side and a text": framed(json.dumps({"a": entry([2**40, "x"], 0, 8)}).encode(), b"\0" * 8),
    "a huge shape that fits its offsets": framed(json.dumps({"a": entry([2**40], 0, 2**42)}).encode(), b"\0" * 8),
    "more sides than torch has": framed(json.dumps({"a": entry([1] * 1000, 0, 4)}).encode(), b"\0" * 4),
    "an object for a shape": framed(
        json.dumps({"a": {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]}}).encode(), b"\0" * 4
    ),
    "a number for a dtype": framed(
        json.dumps({"a": {"dtype": 5, "shape": [1], "data_offsets": [0, 4]}}).encode(), b"\0" * 4
    ),
    "true for a number": framed(json.dumps({"a": entry([True], 0, 4)}).encode(), b"\0" * 4),
    "offsets that are texts": framed(json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": "04"}}).encode()),
}


@pytest.mark.parametrize("kind", list(HEADERS))
def test_damaged_headers_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[kind])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WsteerError) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(WsteerError):
        wsteer.steer(tmp_path, path, k=1, output=tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "x" * 5000,
        "a\n",
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "a\\b.safetensors",
        5,
        None,
        ["x"],
    ],
)
def test_an_index_that_names_anything_but_a_plain_file_is_refused(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(WsteerError, match="not a plain file name"):
        open_checkpoint(folder)


class Payload:
    """An object whose unpickling runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_a_payload_is_refused_and_does_not_run(tmp_path: Path, tiny: Path) -> None:
    ran = tmp_path / "ran"
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").unlink()
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    for path in (base / "pytorch_model.bin", folder / "adapter_model.bin"):
        torch.save({"w": torch.ones(2), "x": Payload(ran)}, path)
        with pytest.raises(WsteerError, match="is not loaded") as caught:
            wsteer.diff(path.parent, output=tmp_path / "w.safetensors", base=tiny)
        assert "\n" not in str(caught.value)
        path.write_bytes(pickle.dumps(Payload(ran)))
        with pytest.raises(WsteerError, match="no PyTorch file"):
            wsteer.diff(path.parent, output=tmp_path / "w.safetensors", base=tiny)
    assert not ran.exists()


def test_a_compressed_or_cut_off_pytorch_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with pytest.raises(WsteerError, match="compressed"):
        open_checkpoint(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WsteerError, match="no PyTorch file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_factors_that_are_not_finite_are_refused_by_name(tmp_path: Path, tiny: Path, value: float) -> None:
    from safetensors.torch import load_file

    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name][0, 0] = value
    save_file(tensors, path)
    with pytest.raises(WsteerError, match="holds NaN or infinity") as caught:
        wsteer.diff(folder, output=tmp_path / "w.safetensors")
    assert name in str(caught.value)
    assert not (tmp_path / "w.safetensors").exists()


def test_an_index_that_names_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "x.safetensors"}}))
    with pytest.raises(WsteerError, match=r"x\.safetensors is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "stored",
    [
        {"w": torch.eye(4).to_sparse()},
        {"w": torch.eye(4).to_sparse_csr()},
        {"w": torch._neg_view(torch.ones(2, 2))},
        {"w": torch.arange(6).view(2, 3).T},
        {1: torch.ones(2)},
        {"\ud800": torch.ones(2)},
        {"w": {"x": torch.ones(2)}},
        [torch.ones(2)],
    ],
    ids=["sparse", "csr", "negated", "transposed", "numbered", "surrogate", "nested", "list"],
)
def test_a_pytorch_file_of_anything_but_plain_named_tensors_is_refused(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "pytorch_model.bin")
    with pytest.raises(WsteerError, match=r"row by row|plain dictionary"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rank_pattern": {"[": 4}}, "is no regex"),
        ({"alpha_pattern": {"a{99999999999}": 4}}, "is no regex"),
        ({"r": 4.0}, "lacks the numbers"),
        ({"r": 2**40}, "lacks the numbers"),
        ({"lora_alpha": 10**400}, "lacks the numbers"),
        ({"lora_alpha": float("inf")}, "lacks the numbers"),
        ({"use_bdlora": True}, "use_bdlora must be"),
        ({"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": "2"}}, "use_bdlora needs"),
        ({"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 3}}, "3 equal blocks"),
        ({"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2**40}}, "equal blocks"),
        ({"base_model_name_or_path": "~nobody/x"}, None),
        ({"base_model_name_or_path": "/\0"}, None),
        ({"base_model_name_or_path": "x" * 5000}, None),
        ({"base_model_name_or_path": "\ud800", "revision": [1]}, None),
    ],
)
def test_strange_adapter_configs_are_refused_or_do_no_harm(
    tmp_path: Path, tiny: Path, change: dict, reason: str | None
) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    if reason is None:
        assert wsteer.diff(folder, output=tmp_path / "w.safetensors").norm > 0
        return
    with pytest.raises(WsteerError, match=reason):
        wsteer.diff(folder, output=tmp_path / "w.safetensors")


def test_a_block_diagonal_factor_does_not_unfold_into_all_memory(tmp_path: Path) -> None:
    """A file of 16 MB would become a matrix of 4 TB."""
    rank = 1 << 20
    tensors = {f"base_model.model.q_proj.lora_{side}.weight": torch.zeros(rank, 1) for side in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    blocks = {"target_modules_bd_b": ["q_proj"], "nblocks": rank}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "use_bdlora": blocks}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(WsteerError, match="not 1048576 equal blocks, 128 at most"):
        wsteer.diff(tmp_path, output=tmp_path / "w.safetensors")


def test_a_config_that_no_encoding_holds_is_written_as_it_was(tmp_path: Path, tiny: Path) -> None:
    """JSON can escape half of a surrogate pair, which UTF-8 cannot hold."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    config = {**json.loads((base / "config.json").read_text()), "note": "é \ud800"}
    (base / "config.json").write_text(json.dumps(config))
    Delta.of_tensors({"blocks.0": torch.ones(32)}, kind="activation").save(tmp_path / "a.safetensors")
    wsteer.steer(base, tmp_path / "a.safetensors", k=1, output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**config, "mlp_bias": True}
