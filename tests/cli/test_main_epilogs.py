"""What --help tells beneath the options: it is shown whole, and names no option that the command lacks."""

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from wsteer.cli.main import app

GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)
WIDEST = 76  # columns; with the help's indentation it fits a terminal of 80


def options_named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def options_of(command: str) -> set[str]:
    return {flag for each in GROUP.commands[command].params for flag in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_what_the_options_mean(command: str) -> None:
    lines = GROUP.commands[command].epilog.strip("\b\n").splitlines()
    shown = CliRunner().invoke(app, [command, "--help"]).output.splitlines()
    assert len(lines) > 5
    assert [line.removeprefix("  ") for line in shown if line][-len(lines) :] == lines
    assert [line for line in lines if len(line) > WIDEST] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_options_named_in_the_help_exist(command: str) -> None:
    unknown = options_named(GROUP.commands[command].epilog) - options_of(command) - {"-m"}  # python's own, in torchrun
    assert unknown == set()


def test_an_option_of_another_command_would_be_found() -> None:
    assert options_named("--rank R, --sweep=-2,-1, checkpoint-N and lm-head; -o DIR") == {"--rank", "--sweep", "-o"}
    assert "--sweep" not in options_of("diff")
