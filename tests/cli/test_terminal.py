"""What reaches the terminal, whatever the terminal, the pipe, the home folder and the user are; and Ctrl-C."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.command import Cli, Inputs
from wsteer.cli.output import Printer

RUN = [sys.executable, "-m", "wsteer"]
NAMELESS = """
import os, pwd
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
from wsteer.__main__ import main
main()
"""
# the handler is in place when "ready" comes
READY = """
import os, signal
from wsteer.__main__ import interrupted, main
signal.signal(signal.SIGINT, interrupted)
os.write(1, b"ready\\n")
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.parametrize("text", ["a\x1b[2J", "\x1b]0;title\x07", "a\rb", "\x7f", "\x9b31m", "\u202eab", "a\u2028b"])
def test_control_characters_are_escaped(cli: Cli, tmp_path: Path, text: str) -> None:
    for arguments in (["diff", text, "-o", tmp_path / "w"], ["diff", "--config", text], [text], ["diff", f"--{text}"]):
        ran = cli(*arguments)
        assert ran.code in (1, 2)
        assert not set(ran.err + ran.out) & set(text) - set("a[2J]0;titleb31m")


def test_answers_and_notes_cannot_forge_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().result({"warnings": ["x\nwsteer: error: forged"]}, ["x\nwsteer: error: forged"])
    Printer().note("x\nwsteer: error: forged")
    Printer().failure("x\nwsteer: error: forged")
    captured = capsys.readouterr()
    assert len((captured.out + captured.err).splitlines()) == 4


def test_a_name_that_is_not_utf8_is_shown_and_recorded(cli: Cli, inputs: Inputs) -> None:
    odd = inputs.folder / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    delta = inputs.delta().rename(odd / os.fsdecode(b"w\xff.safetensors"))
    ran = cli("steer", inputs.tiny, delta, "--k", 1, "-o", odd / "out")
    assert ran.code == 0, ran.err
    assert ran.out.endswith("caf\\xe9/out\n")
    assert r"w\\xff.safetensors" in (odd / "out" / "wsteer.json").read_text(encoding="utf-8")
    ran = cli("diff", delta, "-o", odd / "v.safetensors", "--json")
    assert ran.json["output"] == str(odd / "v.safetensors")  # --json gives the name back, byte for byte
    assert "caf\\xe9/no does not exist" in cli("diff", odd / "no", "-o", odd / "x").error


@pytest.mark.slow
def test_a_terminal_of_ascii(inputs: Inputs) -> None:
    folder = inputs.folder / "é"
    folder.mkdir()
    for changes in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        command = [*RUN, "diff", *inputs.adapters, "-o", folder / "w", "-f"]
        done = subprocess.run(command, capture_output=True, env={**os.environ, **changes})
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii() and done.stdout.rstrip().endswith(b"/w")


@pytest.mark.slow
def test_closed_pipes_and_full_disks(inputs: Inputs) -> None:
    def ended(redirected: str, *arguments: object) -> tuple[int, str]:
        words = " ".join(map(str, [*RUN, *arguments]))
        # the first program's own code, and what it says where it still can
        script = f"({words}; echo $? > code) {redirected}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=inputs.folder)
        return int((inputs.folder / "code").read_text()), done.stderr

    diff = ["diff", *inputs.adapters, "-o", "w", "-f", "-q"]
    assert ended("| true", *diff) == (141, "")
    assert ended("2>&1 | true", *diff[:-1]) == (141, "")
    assert ended(">&-", *diff) == (0, "")
    assert ended(">&- 2>&- <&-", *diff[:-1]) == (0, "")
    for arguments in (diff, ["--help"]):
        assert ended("> /dev/full", *arguments) == (
            1,
            "wsteer: error: the standard output cannot be written: No space left on device\n",
        )


@pytest.mark.slow
def test_no_home_no_name_no_folder(inputs: Inputs) -> None:
    bare = {key: value for key, value in os.environ.items() if key not in ("HOME", "PATH", "LANG", "TERM")}
    compared = ["monitor", *map(str, inputs.adapters), "-f", "-q", "-o"]  # it draws, and matplotlib wants a folder
    runs = {
        "unset and narrow": ["env", "TERM=dumb", "COLUMNS=1", *RUN, *compared, "a"],
        "missing": ["env", "HOME=/nonexistent", *RUN, *compared, "b"],
        "nameless": [sys.executable, "-c", NAMELESS, *compared, "c"],
    }
    for name, command in runs.items():
        done = subprocess.run(command, capture_output=True, text=True, cwd=inputs.folder, env=bare)
        assert (done.returncode, done.stderr) == (0, ""), (name, done.stderr)
    (inputs.folder / "gone").mkdir()
    script = "cd gone; rmdir ../gone; exec " + " ".join([*RUN, *compared, "d"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=inputs.folder)
    assert (done.returncode, done.stderr) == (
        1,
        "wsteer: error: the current folder no longer exists; change to another one\n",
    )


@pytest.mark.slow
def test_ctrl_c_while_libraries_are_imported(inputs: Inputs) -> None:
    chance = random.Random(0)
    commands: list[list[object]] = [
        ["--help"],
        ["diff", *inputs.adapters, "-o", "w", "-f", "-q"],
        ["finetune", inputs.tiny, inputs.chats[0], "--max-steps", 1, "-o", "out", "-f", "-q"],
        ["eval", inputs.tiny, "--task", "agreement", "--limit", 1, "-o", "results", "-f", "-q"],
    ]
    for number in range(8):
        command = [sys.executable, "-c", READY, *map(str, commands[number % len(commands)])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=inputs.folder)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.02, 2))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 130), err
        assert b"Traceback" not in err and b"Exception ignored" not in err, err
        assert process.returncode != 130 or err.startswith(b"wsteer: interrupted") or b"--resume" in err, err


@pytest.mark.slow
def test_ctrl_c_ends_the_demo(inputs: Inputs) -> None:
    process = subprocess.Popen(
        [*RUN, "demo", "--model", str(inputs.tiny), "-o", "out"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=inputs.folder,
    )
    assert process.stderr is not None and any("train: started" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.rstrip().endswith("finetune -> pos: go on with the same command and --resume")
    assert "$ wsteer diff" not in err
    assert {"data", "wsteer.json"} <= {path.name for path in (inputs.folder / "out").iterdir()}
