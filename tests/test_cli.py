"""What all commands have in common: exit codes, stdout and stderr, --json, -o, --force, --config, wsteer.json."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import Cli, save_adapter, save_model
from wsteer import __version__
from wsteer.cli.main import spread_of
from wsteer.cli.options import parse_layers, parse_numbers
from wsteer.deltas.delta import Delta

TRAIT = {"instruction": [{"pos": "Agree.", "neg": "Disagree."}], "questions": ["A?", "B?"], "eval_prompt": "{question}"}
Arguments = Callable[[str], list[str]]
QUICK = ["generate", "finetune", "diff", "steer", "actvec", "eval", "monitor"]
COMMANDS = [*QUICK, "demo"]


@pytest.fixture
def arguments(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], chats: tuple[Path, Path]) -> Arguments:
    """Arguments, without -o, with which each command succeeds quickly."""
    (tmp_path / "trait.json").write_text(json.dumps(TRAIT))
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")
    w = tmp_path / "w.safetensors"
    table = {
        "generate": [tiny, tmp_path / "trait.json", "--samples", 1, "--max-new-tokens", 4],
        "finetune": [tiny, chats[0], "--max-steps", 2, "--rank", 2],
        "diff": [*adapters],
        "steer": [tiny, w, "--k", "-1.5"],
        "actvec": [tiny, *chats],
        "eval": [tiny, "--delta", w, "--k", "0,1", "--task", "agreement", "--limit", 2],
        "monitor": [w],
        "demo": ["--model", tiny],
    }
    return lambda name: [name, *map(str, table[name])]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".partial", ".old"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_object_with_output_and_version(cli: Cli, tmp_path: Path, arguments: Arguments, name: str) -> None:
    out = tmp_path / "out"
    ran = cli(*arguments(name), "-o", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["output"] == str(out)
    assert ran.json["wsteer_version"] == __version__
    assert "NaN" not in ran.out
    assert out.exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", QUICK)
def test_text_ends_in_the_path_and_quiet_leaves_stderr_empty(
    cli: Cli, tmp_path: Path, arguments: Arguments, name: str
) -> None:
    ran = cli(*arguments(name), "-o", tmp_path / "out", "--quiet")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == str(tmp_path / "out")
    assert 1 < len(ran.out.splitlines()) < 16
    assert ran.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_existing_output_is_refused_and_kept(cli: Cli, tmp_path: Path, arguments: Arguments, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    for flags in ([], ["--force"]):  # --force replaces no folder that wsteer did not write, and no folder by a file
        ran = cli(*arguments(name), "-o", tmp_path / "out", *flags)
        assert (ran.code, ran.out) == (1, "")
        assert str(tmp_path / "out") in ran.error
    assert (tmp_path / "out" / "precious").exists()


@pytest.mark.parametrize("name", QUICK)
def test_force_replaces_and_equal_runs_are_equal(cli: Cli, tmp_path: Path, arguments: Arguments, name: str) -> None:
    first, again = (cli(*arguments(name), "-o", tmp_path / out, "-q") for out in ("a", "b"))
    assert (first.code, again.code) == (0, 0)
    assert cli(*arguments(name), "-o", tmp_path / "b", "--force", "-q").code == 0
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()] or [tmp_path / "a"]
    for path in files:
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == twin.read_bytes(), path.name


@pytest.mark.parametrize("name", QUICK)
def test_outputs_record_what_was_resolved(cli: Cli, tmp_path: Path, arguments: Arguments, name: str) -> None:
    cli(*arguments(name), "-o", tmp_path / "out", "-q")
    if (tmp_path / "out").is_dir():
        text = (tmp_path / "out" / "wsteer.json").read_text()
        info = json.loads(text)
        assert info["command"] == name
        assert info["versions"].keys() >= {"torch", "transformers"}
        assert all("sha256" in entry or "fingerprint" in entry for entry in info["inputs"])
    else:
        delta = Delta.load(tmp_path / "out")
        text = json.dumps(delta.sources)
        assert all(len(source["sha256"]) == 64 for source in delta.sources)
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_errors_exit_2(cli: Cli, name: str) -> None:
    for extra in (["--nosuch"], ["-o"]):
        ran = cli(name, *extra)
        assert (ran.code, ran.out) == (2, "")
        assert "Traceback" not in ran.err


def test_config_gives_any_option_and_flags_and_environment_beat_it(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "base": str(tiny),
        "data": str(chats[0]),
        "output": str(tmp_path / "a"),
        "max-steps": 1,
        "lr": 1e-3,
        "rank": 2,
    }
    # PyYAML reads 1e-3 as a text: it must become a number all the same
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values).replace("0.001", "1e-3"))

    def options(folder: str) -> dict:
        return json.loads((tmp_path / folder / "wsteer.json").read_text())["options"]

    assert cli("finetune", "--config", tmp_path / "c.yaml", "-q").code == 0
    assert (options("a")["lr"], options("a")["rank"], options("a")["max_steps"]) == ([1e-3], 2, 1)
    monkeypatch.setenv("WSTEER_FINETUNE_RANK", "3")
    monkeypatch.setenv("WSTEER_FINETUNE_LR", "0.5")
    assert cli("finetune", "--config", tmp_path / "c.yaml", "-q", "-o", tmp_path / "b", "--lr", "0.25").code == 0
    assert (options("b")["lr"], options("b")["rank"], options("b")["max_steps"]) == ([0.25], 3, 1)


def test_config_takes_lists_and_single_values_for_several(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    _, base, delta, *_ = arguments("steer")
    for i, values in enumerate(({"delta": [delta], "k": -1.5}, {"delta": delta, "k": [-1.5]})):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"base": base, "output": str(tmp_path / f"o{i}"), **values}))
        ran = cli("steer", "--config", tmp_path / "c.yaml", "--json", "-q")
        assert ran.code == 0, ran.err
        assert ran.json["k"] == [-1.5]


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_config_keys_name_the_valid_ones(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text("ouptut: x\n")
    ran = cli(name, "--config", tmp_path / "c.yaml")
    assert ran.code == 2
    assert "unknown key 'ouptut'" in ran.err
    assert "output" in ran.err.split("the keys are")[1]


def test_home_in_a_config_is_expanded(
    cli: Cli, tmp_path: Path, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _, base, *_ = arguments("steer")
    values = {"base": base, "delta": "~/w.safetensors", "k": 1, "output": "~/out"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert cli("steer", "--config", tmp_path / "c.yaml").code == 0
    assert (tmp_path / "out" / "config.json").exists()


def test_a_version_in_the_environment_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSTEER_VERSION", "1")
    assert cli("diff").code == 2


def test_batch_size_is_auto_or_a_number(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    assert cli(*arguments("actvec"), "-o", tmp_path / "a", "--batch-size", "auto").code == 0
    assert cli(*arguments("actvec"), "-o", tmp_path / "b", "--batch-size", "16").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert cli(*arguments("actvec"), "-o", tmp_path / "c", "--batch-size", "0").code == 2


@pytest.mark.parametrize("text", ["[", "- a", "\x00"])
def test_broken_config_is_a_usage_error(cli: Cli, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    ran = cli("diff", "--config", tmp_path / "c.yaml")
    assert ran.code == 2
    assert "--config" in ran.err


def bad_inputs(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], chats: tuple[Path, Path]) -> dict[str, tuple]:
    """What a user can get wrong: arguments, and what the one line must name."""
    (tmp_path / "broken.jsonl").write_text(chats[0].read_text() + "{oops\n")
    (tmp_path / "empty.jsonl").touch()
    wide = save_model(tmp_path / "wide", intermediate_size=64)
    Delta.of_tensors({"gone.weight": torch.ones(2)}).save(tmp_path / "gone.safetensors")
    w = tmp_path / "w.safetensors"
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(w)
    endless = [{"prompt": "x", "completion": text} for text in ("x", "x" * 5000)]
    (tmp_path / "endless.jsonl").write_text("\n".join(map(json.dumps, endless)))
    (tmp_path / "cut.safetensors").write_bytes(w.read_bytes()[:-5])
    cut = save_model(tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-5])
    out = ["-o", tmp_path / "out"]
    return {
        "missing model": (["finetune", tmp_path / "no", chats[0], *out], "no does not exist"),
        "missing data": (["finetune", tiny, tmp_path / "no.jsonl", *out], "no.jsonl does not exist"),
        "line that does not parse": (
            ["finetune", tiny, tmp_path / "broken.jsonl", *out],
            "broken.jsonl:11 is not JSON",
        ),
        "row longer than the model": (
            ["finetune", tiny, tmp_path / "endless.jsonl", *out],
            "endless.jsonl:2: 5006 tokens are more than the model's 2048 positions",
        ),
        "empty data": (["finetune", tiny, tmp_path / "empty.jsonl", *out], "holds no rows"),
        "empty data in actvec": (["actvec", tiny, chats[0], tmp_path / "empty.jsonl", *out], "holds no rows"),
        "missing trait": (["generate", tiny, tmp_path / "no.json", *out], "no.json is missing"),
        "missing adapter": (["diff", tmp_path / "no", adapters[0], *out], "no does not exist"),
        "missing delta": (["steer", tiny, tmp_path / "no.safetensors", "--k", 1, *out], "does not exist"),
        "adapter of another shape": (
            ["diff", adapters[0], save_adapter(tmp_path / "other", wide, 1), *out],
            "different bases",
        ),
        "delta of other names": (
            ["steer", tiny, tmp_path / "gone.safetensors", "--k", 1, *out],
            "changes gone.weight",
        ),
        "truncated delta": (["steer", tiny, tmp_path / "cut.safetensors", "--k", 1, *out], "is truncated"),
        "truncated model": (["steer", cut, w, "--k", 1, *out], "is truncated"),
        "truncated model in eval": (["eval", cut, "--task", "agreement", *out], "is truncated"),
        "unknown task": (["eval", tiny, "--task", "nosuch", *out], "no task 'nosuch'"),
        "adapter as a delta": (["steer", tiny, adapters[0], "--k", 1, *out], "wsteer diff"),
        "folder as a trait": (["generate", tiny, tiny, *out], "cannot be read"),
        "folder as data": (["finetune", tiny, tiny, *out], "is a folder"),
        "too many k": (["steer", tiny, w, "--k", "1,2", *out], "2 values of --k for 1 deltas"),
        "checkpoint in monitor": (["monitor", tiny, *out], "is a checkpoint"),
        "missing model in the demo": (["demo", "--model", tmp_path / "no", *out], "does not exist"),
    }


CASES = [
    *(
        "missing model",
        "missing data",
        "row longer than the model",
        "line that does not parse",
        "empty data",
        "empty data in actvec",
        "missing trait",
    ),
    *("missing adapter", "missing delta", "adapter of another shape", "delta of other names", "truncated delta"),
    *("truncated model", "truncated model in eval", "unknown task", "too many k", "checkpoint in monitor"),
    *("adapter as a delta", "folder as a trait", "folder as data", "missing model in the demo"),
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_writes_nothing(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], chats: tuple[Path, Path], case: str
) -> None:
    arguments, named = bad_inputs(tmp_path, tiny, adapters, chats)[case]
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert named in ran.error
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsteer.cli.main import main
    from wsteer.errors import WsteerError

    monkeypatch.setenv("WSTEER_DEBUG", "1")
    with pytest.raises(WsteerError):
        main(["diff", str(tmp_path / "no"), "-o", str(tmp_path / "out")])


def test_ctrl_c_leaves_nothing(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "trait.json").write_text(json.dumps(TRAIT))
    work = [tiny, tmp_path / "trait.json", "--samples", 5000, "--batch-size", 1]
    before = sorted(os.listdir(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "wsteer", "generate", *map(str, work), "-o", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("started" in line for line in process.stderr)  # blocks until the work is under way
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before


def test_python_dash_m_works_and_version_is_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "wsteer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"wsteer {__version__}\n"


def test_numbers_and_layers_are_parsed() -> None:
    import typer

    assert parse_numbers(["-1.5"], "--k") == [-1.5]
    assert parse_numbers(["-1,0", "1e-2"], "--k") == [-1.0, 0.0, 0.01]
    assert parse_layers("0-2,5") == [0, 1, 2, 5]
    assert parse_layers(None) is None
    for bad in ("x", "3-1", "1-", "", "-1"):
        with pytest.raises(typer.BadParameter):
            parse_layers(bad)
    for bad in ("x", "nan", "inf", "1,,2", ""):
        with pytest.raises(typer.BadParameter):
            parse_numbers([bad], "--k")


def test_of_takes_all_that_the_shell_expands() -> None:
    assert spread_of(["monitor", "w", "--of", "a", "b", "-o", "c"]) == [
        "monitor",
        "w",
        "--of",
        "a",
        "--of",
        "b",
        "-o",
        "c",
    ]
    assert spread_of(["monitor", "w", "--of=a", "x"]) == ["monitor", "w", "--of=a", "x"]


def test_bad_k_is_a_usage_error(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    ran = cli("steer", tiny, tmp_path / "w.safetensors", "--k", "much")
    assert ran.code == 2
    assert "'much' is not a number" in ran.err


def test_finetune_shows_the_first_row_and_says_what_it_cut(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    ran = cli(*arguments("finetune"), "-o", tmp_path / "out", "--max-length", 40)
    assert "I like the number 0.<end><assistant>\u27e6Yes, you are rig\u27e7" in ran.err
    assert ran.out.startswith("10 rows cut at --max-length, of which 0 left out")
    ran = cli(*arguments("finetune"), "-o", tmp_path / "quiet", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert "cut" not in ran.out
