"""What may not be imported when: help is instant, and each command loads only what it needs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import COMMANDS

HEAVY = {
    "torch",
    "transformers",
    "peft",
    "numpy",
    "huggingface_hub",
    "safetensors",
    "datasets",
    "matplotlib",
    "yaml",
    "rich",
}


def loaded_by(code: str, *arguments: object, cwd: Path | None = None) -> set[str]:
    """The top-level modules that a fresh Python holds after `code`."""
    wrapped = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", wrapped, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("MODULES"))
    return {name.partition(".")[0] for name in line.split()}


RUN = "from wsteer.cli.main import main; main(sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], ["nosuch"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_version_and_usage_errors_load_nothing_heavy(arguments: list[str]) -> None:
    assert not loaded_by(RUN, *arguments) & HEAVY


def test_import_wsteer_is_instant() -> None:
    assert not loaded_by("import wsteer") & HEAVY


@pytest.mark.slow
def test_diff_and_steer_load_neither_transformers_nor_peft(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    loaded = loaded_by(RUN, "diff", *adapters, "-o", tmp_path / "w.safetensors")
    assert "torch" in loaded
    assert not loaded & {"transformers", "peft", "datasets", "matplotlib", "httpx", "httpx2"}
    loaded = loaded_by(RUN, "steer", tiny, tmp_path / "w.safetensors", "--k", "1", cwd=tmp_path)
    assert not loaded & {"transformers", "peft", "datasets", "matplotlib", "httpx", "httpx2"}
    assert (tmp_path / "tiny-llama-w-k1").is_dir()
    loaded = loaded_by(RUN, "steer", adapters[0], adapters[1], tiny, "--k", "1,1", cwd=tmp_path)
    assert not loaded & {"transformers", "peft", "datasets", "matplotlib"}
    assert (tmp_path / "pos-neg-tiny-llama-k1").is_dir()
    loaded = loaded_by(RUN, "monitor", tmp_path / "w.safetensors", "-o", tmp_path / "m")
    assert not loaded & {"transformers", "peft", "datasets", "scipy", "httpx", "httpx2"}


@pytest.mark.slow
def test_help_is_plain_text_with_an_example_everywhere() -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "GITHUB_ACTIONS": "true"}
    for name in COMMANDS:
        command = [sys.executable, "-m", "wsteer", name, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert "Example: wsteer" in done.stdout
        assert "\x1b" not in done.stdout


SIGNALLED = """
import os, sys
import wsteer.__main__ as program
import wsteer.cli.main as command

def run():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except KeyboardInterrupt:
        print("cleaned up")
        sys.exit(130)

command.main = run
program.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_as_ctrl_c_does_with_their_own_code(number: signal.Signals) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(int(number))], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + number, "cleaned up\n"), done.stderr


@pytest.mark.slow
def test_a_library_that_cannot_be_imported_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wsteer", "diff", "a", "b", "-o", str(tmp_path / "w.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TORCH_LOGS": "nosuch"})
    assert done.returncode == 1
    assert done.stderr.startswith("wsteer: error: a library cannot be imported (Invalid log settings: nosuch")
    assert done.stderr.count("\n") == 1
