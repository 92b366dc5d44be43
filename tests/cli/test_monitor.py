"""Usage errors of `wsteer monitor`."""

from pathlib import Path

from tests.helpers.command import Cli


def test_options_that_would_be_ignored_are_usage_errors(tmp_path: Path, adapters: tuple[Path, Path], cli: Cli) -> None:
    ran = cli("monitor", adapters[0], "--of", adapters[1], "--watch", "--group", "a=b", "-o", tmp_path / "m")
    assert ran.code == 2
    assert "--group: it is not used with --watch" in " ".join(ran.err.split())
