"""Promises kept: no code of an input runs, nothing is lost, no wrong number in silence. One row for each use."""

import re
import signal
import time

import pytest

from tests.helpers.command import Cli, Inputs
from tests.helpers.interruption import contents
from tests.helpers.promises import commands, models, numbers, outputs, reading
from tests.helpers.promises.case import Case

ROWS = {
    f"{part.__name__.rpartition('.')[2]}: {case.name}": case
    for part in (reading, models, numbers, commands, outputs)
    for case in part.CASES
}


def held(inputs: Inputs) -> list:
    """The names of all that is in the folder, and the bytes of every file in it and of the inputs elsewhere."""
    names = {str(path.relative_to(inputs.folder)) for path in inputs.folder.rglob("*")}
    return [names, *map(contents, (inputs.folder, inputs.tiny, *inputs.adapters))]


@pytest.fixture
def shorter_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of every limit of time; messages, and what is left of a limit, still tell the whole."""
    setitimer = signal.setitimer

    def tenth(which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        left, every = setitimer(which, seconds / 10, interval)
        return 10 * left, every

    monkeypatch.setattr(signal, "setitimer", tenth)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ROWS))
def test_a_use_ends_as_promised(
    name: str, inputs: Inputs, cli: Cli, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    case: Case = ROWS[name]
    arguments = [str(argument) for argument in case.arrange(inputs)]
    monkeypatch.chdir(inputs.folder)
    for key, value in case.environment.items():
        monkeypatch.setenv(key, value)
    if case.hangs:
        request.getfixturevalue("shorter_limits")
    before = held(inputs)
    started = time.monotonic()
    ran = cli(*arguments)
    assert time.monotonic() - started < case.seconds
    assert ran.code == case.code, ran.err
    assert "Traceback" not in ran.err
    if case.code == 0:
        assert re.search(case.says, ran.out + ran.err), ran.out + ran.err
        return
    assert re.search(case.says, usage_error(ran.err) if case.code == 2 else ran.error), ran.err
    assert ran.out == ""
    assert held(inputs) == before  # nothing is left, lost or changed


def usage_error(text: str) -> str:
    """The one line of a usage error, below the usage itself."""
    return [line for line in text.splitlines() if line.strip()][-1]
