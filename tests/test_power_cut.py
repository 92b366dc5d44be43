"""The plug is pulled, in simulation: of a file only what was flushed survives, but a rename may survive before it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.command import ARGUMENTS as OF_COMMANDS
from tests.helpers.command import QUICK, Arguments, Cli, Inputs


@pytest.fixture
def arguments(inputs: Inputs) -> Arguments:
    """Arguments, without -o, with which each command succeeds quickly."""
    return lambda name: [name, *map(str, OF_COMMANDS[name](inputs))]


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("command", QUICK)
def test_nothing_gets_its_name_before_it_is_on_the_disk(
    tmp_path: Path, arguments: Arguments, cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, force: bool
) -> None:
    output = tmp_path / "out"
    if force:
        assert cli(*arguments(command), "-o", output).code == 0
    flushed: dict[int, bytes] = {}  # by inode
    named: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        state = os.fstat(descriptor)
        if stat.S_ISREG(state.st_mode):
            flushed[state.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def checked(rename: Callable) -> Callable:
        def run(source: str | Path, target: str | Path, **options: object) -> None:
            if Path(target) == output and str(source).endswith(".wsteer.partial"):
                for path in [Path(source), *Path(source).rglob("*")]:
                    if path.is_file():
                        assert flushed.get(path.stat().st_ino) == path.read_bytes(), path
                        named.append(path.name)
            rename(source, target, **options)

        return run

    monkeypatch.setattr(os, "fsync", noted)
    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))
    ran = cli(*arguments(command), "-o", output, *(["--force"] if force else []))
    assert ran.code == 0, ran.err
    assert len(named) >= 1
