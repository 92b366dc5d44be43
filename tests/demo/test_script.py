"""An experiment as a bash script: the same bytes as a run, whatever the names are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.interruption import contents
from tests.helpers.small_experiments import small_experiment
from tests.helpers.tiny import save_model
from wsteer.demo.script import quoted

ODD = "an odd 'name' \"$(touch x)\" `touch x` $HOME \\ *; -é"


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script run in `folder`, where `wsteer` is the package of these tests."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "wsteer").write_text(f'#!/bin/sh\nexec {sys.executable} -m wsteer "$@"\n')
    (programs / "wsteer").chmod(0o755)
    (folder / "script.sh").write_text(script)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CDPATH": str(programs), **variables}
    return subprocess.run(["bash", "script.sh"], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_script_gives_the_bytes_of_a_run(
    cli: Cli, tmp_path: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / ODD)
    mine = small_experiment(tmp_path, model, adapters)
    monkeypatch.chdir(tmp_path)
    printed = cli("demo", mine, "--model", model.name, "-o", f"printed {ODD}", "--print")
    assert (printed.code, printed.err) == (0, "")
    done = bash(printed.out, tmp_path)
    assert done.returncode == 0, done.stderr
    assert cli("demo", mine, "--model", model, "-o", "ran", "-q").code == 0
    made = contents(tmp_path / "ran")
    del made["wsteer.json"]
    assert contents(tmp_path / f"printed {ODD}") == made
    assert not (tmp_path / "x").exists()
    again = bash(printed.out, tmp_path)
    assert again.returncode == 1 and "File exists" in again.stderr
    assert contents(tmp_path / f"printed {ODD}") == made


@pytest.mark.slow
def test_a_script_takes_another_model_and_ends_at_what_fails(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    mine = small_experiment(tmp_path, tiny, adapters)
    text = cli("demo", mine, "-o", tmp_path / "deep" / "out", "--print").out
    save_model(tmp_path / "other", seed=4)
    for folder in ("deep", "other"):  # data to bring lie beside an experiment's folder
        for side in ("pos", "neg"):
            shutil.copytree(tmp_path / side, tmp_path / folder / side)
    assert bash(text, tmp_path, MODEL="other").returncode == 0  # as named from where the script is run
    assert cli("demo", mine, "--model", tmp_path / "other", "-o", tmp_path / "ran", "-q").code == 0
    steered = tmp_path / "deep" / "out" / "steered"
    assert contents(steered) == contents(tmp_path / "ran" / "steered")
    failing = bash(text.replace("--k 1", "--k nosuch").replace("deep/out", "other/out"), tmp_path)
    assert failing.returncode == 2 and "--k" in failing.stderr
    assert not (tmp_path / "other" / "out" / "monitor").exists()


def test_a_script_says_what_each_step_does_and_what_is_left_out(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    mine = small_experiment(tmp_path, tiny, adapters)
    before = set(tmp_path.iterdir())
    ran = cli("demo", mine, "-o", tmp_path / "out", "--print", "--follow-links")
    assert set(tmp_path.iterdir()) == before
    lines = ran.out.splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[2] == "set -euo pipefail"
    assert lines[1] == f"# A change and what it is (section 3): wsteer demo {mine} --scale small"
    assert f"MODEL=${{MODEL:-{tiny}}}" in lines
    assert "# The difference (section 3.1)" in lines
    assert 'wsteer steer "$MODEL" w.safetensors --k 1 -o steered --follow-links' in lines
    assert "# Left out, since there is no judge: Judged" in lines
    assert "# Left out, since it needs judged, which is left out: A page of it" in lines
    assert lines[-1].endswith('|| { code=$?; [ "$code" -eq 3 ] || exit "$code"; }')
    assert cli("demo", mine, "-o", tmp_path / "out", "--print", "--follow-links", "--json").json["script"] == ran.out


def test_the_demos_own_model_is_named_and_not_fetched(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "MODEL=${MODEL:-HuggingFaceTB/SmolLM2-135M-Instruct}" in cli("demo", "--print").out
    folder = tmp_path / "wsteer" / "SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    (folder / "wsteer.json").write_text("{}")
    assert f"MODEL=${{MODEL:-{folder}}}" in cli("demo", "--print").out


def test_texts_of_a_file_never_leave_their_comment(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    mine = small_experiment(tmp_path, tiny, adapters)
    text = mine.read_text().replace('"A change and what it is"', r'"a\ntouch x\r\ntouch y\Ltouch z\0\e[2J"')
    mine.write_text(text.replace("The difference", r"b\ntouch x"))
    lines = cli("demo", mine, "--print").out.splitlines()
    assert not [line for line in lines if line.startswith("touch")]
    assert "\x1b" not in "".join(lines) and "\0" not in "".join(lines)


@pytest.mark.parametrize(
    "word", [ODD, "", "a\nb", "\x1b[2J", "tab\t'", "\u202eabc", os.fsdecode(b"caf\xe9"), "a\\\n'b"]
)
def test_a_quoted_word_is_the_same_word_in_bash(word: str) -> None:
    done = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)
    assert "\n" not in quoted(word)
