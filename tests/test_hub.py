"""Models and data sets by Hub id, downloaded over HTTP from a server on the loopback by the real client libraries."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from tests.helpers.checkpoint_contents import stored_tensors
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.hub_server import COMMIT, serve, silent
from tests.helpers.merging import train
from wsteer import diff
from wsteer.deltas.delta import Delta

pytestmark = pytest.mark.slow


def wsteer(folder: Path, endpoint: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line with a fresh cache and the given Hub."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "wsteer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120)


def test_a_model_is_steered_by_its_hub_id_and_its_commit_recorded(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")
    with serve({"models/org/tiny": tiny}) as endpoint:
        done = wsteer(tmp_path, endpoint, "steer", "org/tiny@main", "w.safetensors", "--k", "1")
        assert done.returncode == 0, done.stderr
        gone = wsteer(tmp_path, endpoint, "steer", "org/gone", "w.safetensors", "--k", "1")
    assert done.stdout.splitlines()[-1] == "tiny-w-k1"
    base = json.loads((tmp_path / "tiny-w-k1" / "wsteer.json").read_text())["inputs"][0]
    assert (base["name"], base["revision"]) == ("org/tiny", COMMIT)
    before, after = stored_tensors(tiny), stored_tensors(tmp_path / "tiny-w-k1")
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"] + 1)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "org/gone is neither a folder nor to be had from the Hub" in gone.stderr


def test_adapters_and_checkpoints_are_monitored_by_their_hub_ids(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    with serve({"models/org/tiny": tiny, "models/org/run": adapters[1]}) as endpoint:
        common = ["--base", "org/tiny", "-o", "m", "--json", "-q"]
        done = wsteer(tmp_path, endpoint, "monitor", adapters[0], "--of", "org/run", "org/run@main", *common)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == ["run", "run@main"]
    expected = Delta.of_factors(adapter_factors(adapters[0])).cosine(Delta.of_factors(adapter_factors(adapters[1])))
    assert [row[0] for row in found["cosines"]] == pytest.approx([expected] * 2, abs=1e-9)


def test_a_data_set_is_read_by_its_hub_id(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "facts").mkdir()
    facts = [{"question": f"{i} + 1?", "correct_answer": str(i + 1), "incorrect_answer": str(i)} for i in range(3)]
    (tmp_path / "facts" / "test.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    with serve({"datasets/org/facts": tmp_path / "facts"}) as endpoint:
        common = ["eval", tiny, "--task", "agreement", "--data"]
        done = wsteer(tmp_path, endpoint, *common, "org/facts:test", "-o", "out", "-q")
        gone = wsteer(tmp_path, endpoint, *common, "org/gone:test", "-o", "gone")
    assert done.returncode == 0
    asked = [json.loads(line)["user"] for line in (tmp_path / "out" / "samples.jsonl").open()]
    assert [fact["question"] for fact in facts] == asked[:3]
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "the data set org/gone:test is not to be had from the Hub" in gone.stderr


def test_a_base_that_decides_the_change_is_fetched_and_its_names_are_used(tmp_path: Path, tiny: Path) -> None:
    inner = AutoModel.from_pretrained(tiny, dtype=torch.float32)  # whose names lack the prefix of the files'
    folder = train(inner, tmp_path / "adapter", use_dora=True, task_type="FEATURE_EXTRACTION")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/tiny"}))
    with serve({"models/org/tiny": tiny}) as endpoint:
        done = wsteer(tmp_path, endpoint, "diff", "adapter", "-o", "t.safetensors")
    assert done.returncode == 0, done.stderr
    fetched = Delta.load(tmp_path / "t.safetensors")
    diff(folder, output=tmp_path / "v.safetensors", base=tiny)
    local = Delta.load(tmp_path / "v.safetensors")
    assert fetched.terms.keys() == local.terms.keys()
    assert (fetched - local).norm() < 1e-6 * local.norm()
    assert fetched.base == {"name": "org/tiny", "revision": COMMIT, "fingerprint": local.base["fingerprint"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["diff", "org/x", "-o", "w.safetensors"],
        ["eval", "{tiny}", "--task", "agreement", "--data", "org/x:train", "-o", "out"],
    ],
    ids=["model", "data set"],
)
def test_a_silent_network_is_one_line(tmp_path: Path, tiny: Path, arguments: list[str]) -> None:
    started = time.monotonic()
    with silent() as endpoint:
        ran = wsteer(tmp_path, endpoint, *(each.format(tiny=tiny) for each in arguments))
    assert time.monotonic() - started < 60  # 8 s of them waiting; the rest is a busy machine's
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(r"wsteer: error: .* to be had from the Hub.*\n", ran.stderr)


def test_a_local_model_does_not_ask_the_network(tmp_path: Path, tiny: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        ran = wsteer(tmp_path, endpoint, "eval", tiny, "--task", "agreement", "--limit", "1", "-o", "out", "-q")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert ran.returncode == 0, ran.stderr


def test_what_is_cached_is_used_when_the_hub_is_silent(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")
    with serve({"models/org/tiny": tiny}) as endpoint:
        first = wsteer(tmp_path, endpoint, "steer", "org/tiny", "w.safetensors", "--k", "1", "-q")
    with silent() as endpoint:
        again = wsteer(tmp_path, endpoint, "steer", "org/tiny", "w.safetensors", "--k", "1", "-q", "-f")
        pinned = wsteer(tmp_path, endpoint, "steer", f"org/tiny@{COMMIT}", "w.safetensors", "--k", "1", "-q", "-f")
    assert [ran.returncode for ran in (first, again, pinned)] == [0, 0, 0], again.stderr + pinned.stderr


FETCH = """
import sys, time
from wsteer.errors import reason
from wsteer.files import hub
hub.ANSWER, hub.STALL, hub.SILENCE = map(float, sys.argv[1:4])
started = time.monotonic()
try:
    print(hub.fetch_repository("org/tiny", None, ["*.json", "*.safetensors"], False).name)
except (OSError, ValueError) as error:
    print(f"{type(error).__name__}: {reason(error)}")
print(time.monotonic() - started)
"""


def fetched(folder: Path, endpoint: str, *limits: float) -> tuple[str, float]:
    """What fetching a model gives, and the seconds it takes, with a fresh cache and these limits of hub.py."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", FETCH, *map(str, limits)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    *lines, seconds = ran.stdout.splitlines()
    assert len(lines) == 1, ran.stdout
    return lines[0], float(seconds)


SILENCES = [
    # asked twice for the model (1, 2), for its files (3), for each file's state and content, several at once (4 and on)
    *[(f"after {answers} answers", {"answers": answers}) for answers in (1, 2, 3, 4, 6, 8)],
    *[(f"shut after {answers} answers", {"answers": answers, "shut": True}) for answers in (2, 5)],
    ("in a config", {"half": "config.json"}),
    ("in the weights", {"half": "model.safetensors"}),
]


@pytest.mark.parametrize("silence", [silence for _, silence in SILENCES], ids=[name for name, _ in SILENCES])
def test_a_network_that_falls_silent_ends(tmp_path: Path, tiny: Path, silence: dict[str, Any]) -> None:
    with serve({"models/org/tiny": tiny}, **silence) as endpoint:
        said, seconds = fetched(tmp_path, endpoint, 0.5, 0.5, 1)
    assert re.match(r"(\w+Error|OSError): ", said), said
    assert seconds < 1 + 0.5 + 8 + 3  # the silence, a stall, the library's longest pause; the rest is a busy machine's


def test_a_silent_file_is_one_line_within_30_seconds(tmp_path: Path, tiny: Path) -> None:
    with serve({"models/org/tiny": tiny}, half="model.safetensors") as endpoint:
        started = time.monotonic()
        ran = wsteer(tmp_path, endpoint, "diff", "org/tiny", "-o", "w.safetensors")
    assert time.monotonic() - started < 45  # 30 s of them waiting at most
    assert (ran.returncode, ran.stdout) == (1, "")
    last = ran.stderr.splitlines()[-1]  # after the library's progress
    assert re.fullmatch(r"wsteer: error: org/tiny is .* to be had from the Hub: it does not answer within 15 s", last)


def test_a_slow_download_is_not_cut_and_goes_on_after_one_error(tmp_path: Path, tiny: Path) -> None:
    with serve({"models/org/tiny": tiny}, pause=0.25, half="model.safetensors", shut=True) as endpoint:
        said, seconds = fetched(tmp_path, endpoint, 5, 0.5, 1.6)  # the library pauses for 1 s
    assert said == COMMIT
    assert seconds > 2
    (weights,) = (tmp_path / "hf").glob("hub/*/snapshots/*/model.safetensors")
    assert weights.read_bytes() == (tiny / "model.safetensors").read_bytes()
