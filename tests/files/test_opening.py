"""Files are opened safely, and records hold the digest of what was read."""

import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli, Inputs
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.opening import check_streams, digest_of, regular
from wsteer.files.provenance import source_entry
from wsteer.files.rows import read_objects
from wsteer.files.tensors import read_header
from wsteer.files.text import read_text


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_records_digest_is_of_what_was_read_and_not_of_what_stands_there_later(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n")
    assert [row for _, row in read_objects(path)] == [{}]
    path.write_text('{"a": 1}\n')
    assert source_entry("data", path)["sha256"] == sha(b"\xef\xbb\xbf{}\r\n")
    read_text(path)
    assert source_entry("data", path)["sha256"] == sha(b'{"a": 1}\n')


@pytest.mark.parametrize("change", ["longer", "another", "touched"])
def test_weights_that_change_after_their_header_was_read_are_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "w.safetensors"
    Delta.of_tensors({"w": torch.ones(2)}).save(path)
    read_header(path)
    assert digest_of(path) == sha(path.read_bytes())
    if change == "longer":
        with path.open("ab") as file:
            file.write(b"x")
    elif change == "another":
        shutil.copyfile(path, tmp_path / "v")
        os.replace(tmp_path / "v", path)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(WsteerError, match=r"w\.safetensors changed while it was read; run again"):
        source_entry("delta", path)
    if change == "longer":  # bytes that belong to no tensor are refused
        os.truncate(path, path.stat().st_size - 1)
    read_header(path)
    assert digest_of(path) == sha(path.read_bytes())


def test_an_input_of_diff_that_changes_meanwhile_leaves_no_result(
    tmp_path: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(adapters[0], tmp_path / "a"))
    weights = folder / "adapter_model.safetensors"

    def touching(items, label, total=None):
        os.utime(weights)
        return items

    with pytest.raises(WsteerError, match="changed while it was read"):
        wsteer.diff(folder, output=tmp_path / "w.safetensors", progress=touching)
    assert not (tmp_path / "w.safetensors").exists()
    with pytest.raises(WsteerError, match="changed while it was read"):
        wsteer.monitor([folder], tmp_path / "monitor", progress=touching)
    assert not (tmp_path / "monitor").exists()


def test_a_base_that_changes_while_it_is_steered_leaves_no_result(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")

    def touching(items, label, total=None):
        os.utime(base / "model.safetensors", ns=(1, 1))
        return items

    with pytest.raises(WsteerError, match="changed while it was read"):
        wsteer.steer(base, tmp_path / "w.safetensors", k=1, output=tmp_path / "out", progress=touching)
    assert not (tmp_path / "out").exists()


def test_standard_input_is_read_once_and_recorded_by_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b'{"a": 1}\n\n{"a": 2}')
    assert read_objects("-") == [("-:1", {"a": 1}), ("-:3", {"a": 2})]
    assert source_entry("data", "-") == {"role": "data", "path": "-", "sha256": sha(b'{"a": 1}\n\n{"a": 2}')}


@pytest.mark.slow
def test_rows_come_from_standard_input_with_a_weight(
    tmp_path: Path, inputs: Inputs, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--max-steps", 1, "--rank", 2, "--seed", 3]
    for name, data in (("pipe", "-:2"), ("file", f"{inputs.chats[0]}:2")):
        stdin(monkeypatch, inputs.chats[0].read_bytes())
        assert cli("finetune", inputs.tiny, data, "-o", tmp_path / name, *common).code == 0
    piped, given = (json.loads((tmp_path / name / "wsteer.json").read_text())["inputs"][1] for name in ("pipe", "file"))
    assert piped == {**given, "path": "-"}
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("pipe", "file")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_facts_and_data_to_project_come_from_standard_input(
    tmp_path: Path, inputs: Inputs, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, json.dumps({"question": "1 + 1?", "correct_answer": "2", "incorrect_answer": "3"}).encode())
    ran = cli("eval", inputs.tiny, "--task", "agreement", "--data", "-", "-o", tmp_path / "e", "--json")
    assert {each["n"] + sum(each["unscored"].values()) for each in ran.json["estimates"]} == {1}
    recorded = json.loads((tmp_path / "e" / "wsteer.json").read_text())["inputs"]
    assert [entry["role"] for entry in recorded] == ["model", "task", "data"]
    delta = tmp_path / "a.safetensors"
    Delta.of_tensors({"blocks.1": torch.ones(32)}, kind="activation").save(delta)
    stdin(monkeypatch, inputs.chats[0].read_bytes())
    ran = cli("monitor", delta, "--of", "-", "--base", inputs.tiny, "-o", tmp_path / "m", "--json")
    assert ran.json["projections"][0]["data"] == "-"


def test_closed_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(WsteerError, match=r"^- cannot be read"):
        read_objects("-")
    with pytest.raises(WsteerError, match="is named twice"):
        check_streams(["-", "x.jsonl", "/dev/stdin"])


def test_an_endless_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsteer.files.rows.MOST_BYTES", 1000)
    stdin(monkeypatch, b"x" * 1001)
    with pytest.raises(WsteerError, match="limit of its kind"):
        read_objects("-")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/tmp", "\0", "x" * 5000])
def test_what_is_no_regular_file_is_one_line(path: str) -> None:
    with pytest.raises(WsteerError, match="cannot be read"), regular(Path(path)):
        pass
