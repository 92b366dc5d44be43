"""wsteer demo's modes: experiments listed, checked and judged; options that mean nothing together."""

from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.small_experiments import small_experiment
from wsteer.demo.experiment import SHIPPED, shipped


@pytest.fixture
def mine(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> Path:
    return small_experiment(tmp_path, tiny, adapters)


def test_experiments_are_listed_with_the_folder_that_has_them(cli: Cli) -> None:
    ran = cli("demo", "--list")
    assert ran.code == 0 and ran.out.splitlines()[-1] == f"Their files, to copy: {SHIPPED}"
    assert all(any(line.startswith(f"{name} ") for line in ran.out.splitlines()) for name in shipped())
    listed = cli("demo", "--list", "--json").json
    assert [each["name"] for each in listed["experiments"]] == shipped()
    assert all(Path(each["path"]).is_file() and each["scales"] for each in listed["experiments"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--list", "--print"), "--print"),
        (("--print", "--dry-run"), "--dry-run"),
        (("--dry-run", "--report"), "--report"),
        (("--list", "mine.yaml"), "EXPERIMENT"),
        (("--list", "--model", "m"), "--model"),
        (("--list", "-o", "x"), "--output"),
        (("--print", "--resume"), "--resume"),
        (("--print", "-f"), "--force"),
        (("--dry-run", "--resume"), "--resume"),
        (("--dry-run", "-f"), "--force"),
        (("--report", "--resume"), "--resume"),
        (("--report", "--model", "m"), "--model"),
        (("--resume", "--force"), "--force"),
        (("--scale", "large"), "large"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("demo", *arguments)
    assert (ran.code, ran.out) == (2, "") and named in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing_and_tells_what_is_wrong(cli: Cli, mine: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    ran = cli("demo", mine, "-o", tmp_path / "out", "--dry-run", "--json")
    assert ran.code == 0 and ran.json["problems"] == []
    assert [step["left_out"] is None for step in ran.json["steps"]] == [True, True, False, False, True]
    assert ran.json["estimates"]["disk"] > 0
    assert [each["present"] for each in ran.json["bring"]] == [True, True]
    mine.write_text(mine.read_text().replace("wsteer diff ../pos ../neg", "wsteer diff ../pos nothing"))
    ran = cli("demo", mine, "-o", tmp_path / "out", "--dry-run")
    assert ran.code == 1 and "step 1: nothing" in ran.error and "In all at least" in ran.out
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_report_is_the_last_step_and_can_be_made_alone(
    cli: Cli, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = """
findings:
  - {name: alike, says: "Both sides differ.", section: "5", figures: "8", axes: "cosines", results: monitor,
     picture: similarity, rules: [{above: ["pos ~ w"], below: ["neg ~ w"]}]}
"""
    mine.write_text(mine.read_text() + finding)
    monkeypatch.setenv("WSTEER_DEMO_RESUME", "1")  # which a report refuses, and is not meant for it
    out = tmp_path / "out"
    ran = cli("demo", mine, "-o", out, "--json")
    assert ran.code == 0, ran.err
    assert f"$ wsteer demo {mine} --scale small --report -o .\n" in ran.err
    assert ran.json["report"] == str(out / "report.html")
    monkeypatch.delenv("WSTEER_DEMO_RESUME")
    page = (out / "report.html").read_bytes()
    assert "exists" in cli("demo", mine, "-o", out, "--report").error
    (out / "wsteer.json").unlink()  # a script's folder has none
    told = cli("demo", mine, "-o", out, "--report", "-f", "--json")
    assert told.code == 0 and told.json["findings"][0]["verdict"] == "agrees"
    assert (out / "report.html").read_bytes() == page
