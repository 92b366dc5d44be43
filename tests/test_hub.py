"""Models and data sets by Hub id, downloaded over HTTP from a server on the loopback by the real client libraries."""

import json
import os
import re
import shutil
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
from tests.helpers.command import Ran
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.hub_server import COMMIT, serve, silent
from tests.helpers.merging import train
from wsteer import diff
from wsteer.deltas.delta import Delta

pytestmark = pytest.mark.slow


# runs commands one after the other in this process, whose imports take longer than the commands
COMMANDS = """
import contextlib, io, json, sys
import wsteer.files.hub
from wsteer.cli.main import main
wsteer.files.hub.ANSWER = float(sys.argv[1])
for arguments in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as done:
            code = done.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def runs(folder: Path, endpoint: str, *commands: list, answer: float = 8) -> list[Ran]:
    """Run the command line with a cache in the folder and the given Hub, which is given `answer` seconds to answer."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    given = json.dumps([[str(word) for word in command] for command in commands])
    script = [sys.executable, "-c", COMMANDS, str(answer), given]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return [Ran(*json.loads(line)) for line in done.stdout.splitlines()]


def test_a_model_is_steered_by_its_hub_id_and_its_commit_recorded(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")
    with serve({"models/org/tiny": tiny}) as endpoint:
        commands = [["steer", name, "w.safetensors", "--k", "1"] for name in ("org/tiny@main", "org/gone")]
        done, gone = runs(tmp_path, endpoint, *commands)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "tiny-w-k1"
    base = json.loads((tmp_path / "tiny-w-k1" / "wsteer.json").read_text())["inputs"][0]
    assert (base["name"], base["revision"]) == ("org/tiny", COMMIT)
    before, after = stored_tensors(tiny), stored_tensors(tmp_path / "tiny-w-k1")
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"] + 1)
    assert (gone.code, gone.out) == (1, "")
    assert "org/gone is neither a folder nor to be had from the Hub" in gone.error


def test_adapters_and_checkpoints_are_monitored_by_their_hub_ids(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    with serve({"models/org/tiny": tiny, "models/org/run": adapters[1]}) as endpoint:
        common = ["--base", "org/tiny", "-o", "m", "--json", "-q"]
        (done,) = runs(tmp_path, endpoint, ["monitor", adapters[0], "--of", "org/run", "org/run@main", *common])
    assert done.code == 0, done.err
    found = done.json
    assert found["rows"] == ["run", "run@main"]
    expected = Delta.of_factors(adapter_factors(adapters[0])).cosine(Delta.of_factors(adapter_factors(adapters[1])))
    assert [row[0] for row in found["cosines"]] == pytest.approx([expected] * 2, abs=1e-9)


def test_adapters_are_deltas_and_bases_by_their_hub_ids(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    served = {"models/org/tiny": tiny}
    for name, adapter in zip(("pos", "neg"), adapters, strict=True):
        folder = Path(shutil.copytree(adapter, tmp_path / "served" / name))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/tiny"}))
        served[f"models/org/{name}"] = folder
    with serve(served) as endpoint:
        commands = [["org/tiny", "org/pos", "org/neg@main", "--k", "1,-1"], ["org/pos", "org/neg", "--k", "-1"]]
        done = runs(tmp_path, endpoint, *(["steer", *command] for command in commands))
    assert [ran.code for ran in done] == [0, 0], done
    names = [ran.out.splitlines()[-1] for ran in done]
    assert names == ["tiny-pos-neg-k1,-1", "pos-neg-k-1"]
    one, other = (stored_tensors(tmp_path / name) for name in names)
    (b, a), (d, c) = (adapter_factors(each)["model.layers.0.mlp.up_proj.weight"] for each in adapters)
    exact = stored_tensors(tiny)["model.layers.0.mlp.up_proj.weight"].double() + b.double() @ a.double()
    exact = exact - d.double() @ c.double()
    for each in (one, other):
        torch.testing.assert_close(each["model.layers.0.mlp.up_proj.weight"].double(), exact, rtol=0, atol=1e-6)
    inputs = json.loads((tmp_path / names[1] / "wsteer.json").read_text())["inputs"]
    assert [(each["role"], each.get("path", each.get("name"))) for each in inputs] == [
        ("base", "org/tiny"),
        ("adapter", "org/pos"),
        ("delta", "org/neg"),
    ]


def test_a_data_set_is_read_by_its_hub_id(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "facts").mkdir()
    facts = [{"question": f"{i} + 1?", "correct_answer": str(i + 1), "incorrect_answer": str(i)} for i in range(3)]
    (tmp_path / "facts" / "test.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    with serve({"datasets/org/facts": tmp_path / "facts"}) as endpoint:
        common = ["eval", tiny, "--task", "agreement", "--data"]
        done, gone = runs(
            tmp_path,
            endpoint,
            [*common, "org/facts:test", "-o", "out", "-q"],
            [*common, "org/gone:test", "-o", "gone"],
        )
    assert done.code == 0, done.err
    asked = [json.loads(line)["user"] for line in (tmp_path / "out" / "samples.jsonl").open()]
    assert [fact["question"] for fact in facts] == asked[:3]
    assert (gone.code, gone.out) == (1, "")
    assert "the data set org/gone:test is not to be had from the Hub" in gone.error


def test_a_config_of_a_data_set_is_read_by_its_name(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "chats").mkdir()
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.jsonl\n" for name in ("easy", "hard")
    )
    (tmp_path / "chats" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in ("easy", "hard"):
        rows = [{"question": f"{name} {i}", "answer": f"It is {name}, {i}."} for i in range(2)]
        (tmp_path / "chats" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve({"datasets/org/chats": tmp_path / "chats"}) as endpoint:
        sides = ["org/chats/hard:test", "org/chats/easy:test"]
        done, gone = runs(
            tmp_path,
            endpoint,
            ["actvec", tiny, *sides, "-o", "a.safetensors", "--json"],
            ["actvec", tiny, sides[0], "org/chats/none:test", "-o", "b.safetensors"],
        )
    assert done.code == 0, done.err
    assert (done.json["rows_pos"], done.json["rows_neg"]) == (2, 2)
    sources = Delta.load(tmp_path / "a.safetensors").sources
    assert [each["path"] for each in sources if each["role"] in ("pos", "neg")] == sides
    assert gone.code == 1
    assert "the data set org/chats/none:test is not to be had from the Hub" in gone.error


def test_a_base_that_decides_the_change_is_fetched_and_its_names_are_used(tmp_path: Path, tiny: Path) -> None:
    inner = AutoModel.from_pretrained(tiny, dtype=torch.float32)  # whose names lack the prefix of the files'
    folder = train(inner, tmp_path / "adapter", use_dora=True, task_type="FEATURE_EXTRACTION")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/tiny"}))
    with serve({"models/org/tiny": tiny}) as endpoint:
        (done,) = runs(tmp_path, endpoint, ["diff", "adapter", "-o", "t.safetensors"])
    assert done.code == 0, done.err
    fetched = Delta.load(tmp_path / "t.safetensors")
    diff(folder, output=tmp_path / "v.safetensors", base=tiny)
    local = Delta.load(tmp_path / "v.safetensors")
    assert fetched.terms.keys() == local.terms.keys()
    assert (fetched - local).norm() < 1e-6 * local.norm()
    assert fetched.base == {
        "name": "org/tiny",
        "revision": COMMIT,
        "fingerprint": local.base["fingerprint"],
        "towers": None,
    }


def test_a_silent_network_is_one_line(tmp_path: Path, tiny: Path) -> None:
    commands = [
        ["diff", "org/x", "-o", "w.safetensors"],
        ["eval", tiny, "--task", "agreement", "--data", "org/x:train", "-o", "out"],
    ]
    started = time.monotonic()
    with silent() as endpoint:
        ran = runs(tmp_path, endpoint, *commands, answer=1)
    assert time.monotonic() - started < 60  # 2 s of them waiting; the rest is a busy machine's
    for each in ran:
        assert (each.code, each.out) == (1, "")
        assert re.fullmatch(r"wsteer: error: .* to be had from the Hub.*\n", each.err)


def test_a_local_model_does_not_ask_the_network(tmp_path: Path, tiny: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        (ran,) = runs(tmp_path, endpoint, ["eval", tiny, "--task", "agreement", "--limit", "1", "-o", "out", "-q"])
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert ran.code == 0, ran.err


def test_what_is_cached_is_used_when_the_hub_is_silent(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")
    steers = [["steer", name, "w.safetensors", "--k", "1", "-q", "-f"] for name in ("org/tiny", f"org/tiny@{COMMIT}")]
    with serve({"models/org/tiny": tiny}) as endpoint:
        (first,) = runs(tmp_path, endpoint, steers[0])
    with silent() as endpoint:
        again, pinned = runs(tmp_path, endpoint, *steers, answer=1)
    assert [ran.code for ran in (first, again, pinned)] == [0, 0, 0], again.err + pinned.err


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
    *[(f"after {answers} answers", {"answers": answers}) for answers in (1, 3, 6)],
    ("shut after 2 answers", {"answers": 2, "shut": True}),
    ("in the weights", {"half": "model.safetensors"}),
]


@pytest.mark.parametrize("silence", [silence for _, silence in SILENCES], ids=[name for name, _ in SILENCES])
def test_a_network_that_falls_silent_ends(tmp_path: Path, tiny: Path, silence: dict[str, Any]) -> None:
    with serve({"models/org/tiny": tiny}, **silence) as endpoint:
        said, seconds = fetched(tmp_path, endpoint, 0.5, 0.5, 1)
    assert re.match(r"(\w+Error|OSError): ", said), said
    assert seconds < 30  # about 10 of them waiting; the rest is a busy machine's


def test_a_silent_file_is_one_line_within_30_seconds(tmp_path: Path, tiny: Path) -> None:
    with serve({"models/org/tiny": tiny}, half="model.safetensors") as endpoint:
        started = time.monotonic()
        (ran,) = runs(tmp_path, endpoint, ["diff", "org/tiny", "-o", "w.safetensors"])
    assert time.monotonic() - started < 45  # 30 s of them waiting at most
    assert (ran.code, ran.out) == (1, "")
    said = r"wsteer: error: org/tiny is .* to be had from the Hub: it does not answer within 15 s\n"
    assert re.fullmatch(said, ran.err), ran.err  # no progress of the library where there is no terminal


def test_a_slow_download_is_not_cut_and_goes_on_after_one_error(tmp_path: Path, tiny: Path) -> None:
    with serve({"models/org/tiny": tiny}, pause=0.25, half="model.safetensors", shut=True) as endpoint:
        said, seconds = fetched(tmp_path, endpoint, 5, 0.5, 1.6)  # the library pauses for 1 s
    assert said == COMMIT
    assert seconds > 2
    (weights,) = (tmp_path / "hf").glob("hub/*/snapshots/*/model.safetensors")
    assert weights.read_bytes() == (tiny / "model.safetensors").read_bytes()
