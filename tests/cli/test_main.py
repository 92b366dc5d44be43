"""What all commands have in common: exit codes, stdout and stderr, --json, -o, --force, wsteer.json."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import COMMANDS, QUICK, TRAIT, Arguments, Cli, leftovers
from wsteer import __version__
from wsteer.cli.command import spread_of
from wsteer.deltas.delta import Delta


@pytest.mark.parametrize("name", [*QUICK, pytest.param("demo", marks=pytest.mark.slow)])
def test_json_is_one_object_with_output_and_version(cli: Cli, tmp_path: Path, arguments: Arguments, name: str) -> None:
    out = tmp_path / "out"
    ran = cli(*arguments(name), "-o", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["output"] == str(out)
    assert ran.json["wsteer_version"] == __version__
    assert "NaN" not in ran.out
    assert out.exists()
    assert leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_text_ends_in_the_path_and_quiet_leaves_stderr_empty(
    cli: Cli, tmp_path: Path, arguments: Arguments, name: str
) -> None:
    ran = cli(*arguments(name), "-o", tmp_path / "out", "--quiet")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == str(tmp_path / "out")
    assert 1 < len(ran.out.splitlines()) < 16
    assert [line for line in ran.err.splitlines() if not line.startswith("wsteer: warning: ")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_existing_output_is_refused_and_kept(cli: Cli, tmp_path: Path, arguments: Arguments, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    for flags in ([], ["--force"]):  # --force replaces no folder that wsteer did not write, and no folder by a file
        ran = cli(*arguments(name), "-o", tmp_path / "out", *flags)
        assert (ran.code, ran.out) == (1, "")
        assert str(tmp_path / "out") in ran.error
    assert (tmp_path / "out" / "precious").exists()


@pytest.mark.slow
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
    elif name == "report":
        text = (tmp_path / "out").read_text()
        assert "results_1.json (sha256 " in text
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


def test_a_version_in_the_environment_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSTEER_VERSION", "1")
    assert cli("diff").code == 2


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsteer.cli.main import main
    from wsteer.errors import WsteerError

    monkeypatch.setenv("WSTEER_DEBUG", "1")
    with pytest.raises(WsteerError):
        main(["diff", str(tmp_path / "no"), "-o", str(tmp_path / "out")])


@pytest.mark.slow
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
    assert spread_of(["monitor", "w", "--of=a", "x"]) == ["monitor", "w", "--of=a", "--of", "x"]
