"""Odd values of every option of every command: a usage error or an ordinary end, never a traceback or a long wait."""

import time
from typing import Any

import pytest
import typer

from tests.helpers.command import COMMANDS, Cli, Inputs
from wsteer.cli.main import app

GROUP: Any = typer.main.get_command(app)
EDGES = (
    *("", "²", "٣", "inf", "-inf", "nan", "1e15", "1e400", "9" * 5000, "0-9999999999", "-1", "0x10", "1,,2", ",", ":"),
    *("(", "(?P<", "a{99999999999}", "[", "a=", "=1", "a=inf", "a=1e999", "1:30", "1:nan", "on", "\x1b[2J", "a\nb"),
    *("100000000", "9999999999", "10000000000000", "1e-400", "\u202e", "\udcff"),
)
# arguments of which none exists: whatever values are let through, the run ends at once
ARGUMENTS = {
    "generate": ["nosuch", "nosuch.json"],
    "finetune": ["nosuch", "nosuch.jsonl"],
    "diff": ["nosuch"],
    "steer": ["nosuch", "nosuch.safetensors"],
    "actvec": ["nosuch", "nosuch.jsonl", "nosuch.jsonl"],
    "eval": ["nosuch", "--delta=nosuch.safetensors", "--task=agreement"],
    "monitor": ["nosuch"],
    "report": ["nosuch"],
    "demo": ["--model=nosuch"],
}


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """typer builds all commands anew for every run, which takes longer than the runs here."""
    monkeypatch.setattr(typer.main, "get_command", lambda app: GROUP)


def options(command: str) -> dict[str, Any]:
    """The options of a command that take a value, by their long flags."""
    found = [each for each in GROUP.commands[command].params if each.param_type_name == "option" and not each.is_flag]
    return {next(flag for flag in each.opts if flag.startswith("--")): each for each in found}


def test_every_command_has_arguments_here() -> None:
    assert ARGUMENTS.keys() == set(COMMANDS) == GROUP.commands.keys()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_values_of_every_option(cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(inputs.folder)
    before = set(inputs.folder.iterdir())
    for flag in options(command).keys() - {"--output"}:
        others = [each for each in ARGUMENTS[command] if not each.startswith(f"{flag}=")]
        needed = ["--k=1"] if command == "steer" and flag not in ("--k", "--sweep") else []
        for edge in EDGES:
            started = time.monotonic()
            ran = cli(command, *others, *needed, "-o", "out", f"{flag}={edge}")
            assert ran.code in (1, 2), (flag, edge, ran.err)
            assert ran.out == "" and "Traceback" not in ran.err and "\x1b" not in ran.err
            assert ran.code == 2 or ran.err.count("\n") == 1, (flag, edge, ran.err)
            assert time.monotonic() - started < 30, (flag, edge)
    assert set(inputs.folder.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_takes_what_is_none(cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(inputs.folder)
    for flag, parameter in options(command).items():
        if parameter.type_descriptor.annotation in (int, float):
            for edge in ("", "²", "nan", "1e400", "9" * 5000, "1,2", "on"):
                assert cli(command, *ARGUMENTS[command], "-o", "out", f"{flag}={edge}").code == 2, (flag, edge)
