"""Command lines parsed without being run."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from wsteer.cli.main import app
from wsteer.cli.parsing import parse_line
from wsteer.demo.commands import Parsed
from wsteer.demo.experiment import Command, Step

GROUP: Any = typer.main.get_command(app)
PARSE = partial(parse_line, GROUP)


def parsed(line: str, folder: Path = Path()) -> Parsed:
    """The values of a line as one types it, `wsteer` left out."""
    return PARSE(shlex.split(line), folder)


def steps(lines: Sequence[str], **facts: Any) -> list[Command]:
    """Commands of an experiment, one a line; one with {judge} lacks a judge. `facts` are those of its steps."""
    facts = {**facts, "rows": (facts["rows"],)} if isinstance(facts.get("rows"), int) else facts
    return [
        Command(Step("", "", line, **facts), tuple(shlex.split(line)), "judge" if "{judge}" in line else None)
        for line in lines
    ]
