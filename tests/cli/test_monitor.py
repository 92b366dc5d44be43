"""Usage errors of `wsteer monitor`."""

from pathlib import Path

import pytest

from tests.helpers.command import Cli


def test_options_that_would_be_ignored_are_usage_errors(tmp_path: Path, adapters: tuple[Path, Path], cli: Cli) -> None:
    ran = cli("monitor", adapters[0], "--of", adapters[1], "--watch", "--group", "a=b", "-o", tmp_path / "m")
    assert ran.code == 2
    assert "--group: it is not used with --watch" in " ".join(ran.err.split())


PROJECTED = ["--of", "data.jsonl", "--base", "model"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--of", "run", "--positions", "response"], "--positions: it is not used with cosines of weights"),
        ([*PROJECTED, "--positions", "response"], "--positions: it is not used with projections without --shift"),
        ([*PROJECTED, "--scores", "s.csv"], "--scores: it is not used with projections without --shift"),
        ([*PROJECTED, "--shift", "run", "--per", "layer"], "--per: it is not used with projections of data sets"),
        ([*PROJECTED, "--shift", "run", "--ceiling", "a=b"], "--ceiling: it is not used with projections of data sets"),
        ([*PROJECTED, "--shift", "run", "--include", "q"], "--include: projections choose by --layers alone"),
        ([*PROJECTED, "--shift", "run", "--until-step", "3"], "--until-step: it is not used with anything but --watch"),
        ([*PROJECTED, "--watch"], "--watch: one training folder is needed: --shift RUN"),
        ([*PROJECTED, "--shift", "run", "--shift", "other", "--watch"], "--watch: one training folder is needed"),
        (["--shift", "run", "--base", "model", "--watch"], "--shift needs data sets"),
    ],
)
def test_projections_take_the_options_that_apply(tmp_path: Path, cli: Cli, arguments: list[str], reason: str) -> None:
    ran = cli("monitor", "a.safetensors", *arguments, "-o", tmp_path / "m")
    assert ran.code == 2
    assert reason in " ".join(ran.err.split())
