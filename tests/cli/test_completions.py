"""The completion scripts are what typer generates now."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "completions"


@pytest.mark.parametrize(("shell", "name"), [("bash", "wsteer.bash"), ("zsh", "_wsteer"), ("fish", "wsteer.fish")])
def test_completion_file_is_fresh(shell: str, name: str) -> None:
    environment = {**os.environ, "_WSTEER_COMPLETE": f"source_{shell}"}
    done = subprocess.run([sys.executable, "-m", "wsteer"], capture_output=True, text=True, env=environment)
    assert (FOLDER / name).read_text() == done.stdout.lstrip("\n")  # compinit wants #compdef on line 1


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    for words, expected in (("wsteer di", "diff"), ("wsteer diff --fo", "--force")):
        environment = {
            **os.environ,
            "_WSTEER_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run([sys.executable, "-m", "wsteer"], capture_output=True, text=True, env=environment)
        assert expected in done.stdout.split()
