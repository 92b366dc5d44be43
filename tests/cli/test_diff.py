"""diff on the command line: its lines, and options that do not fit together."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Cli


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--complement"], "give --rank"),
        (["--spectrum", "w.safetensors"], "places of their own"),
        (["--rank", "99", "--complement"], "the part of rank 99 is the whole delta"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: tuple[Path, Path], options: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("diff", *adapters, "-o", "w.safetensors", *options)
    assert ran.code == (2 if options == ["--complement"] else 1)
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_bisector_of_one_side_is_a_usage_error(cli: Cli, tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    ran = cli("diff", adapters[0], "-o", tmp_path / "w", "--bisector")
    assert (ran.code, "give NEG" in ran.err) == (2, True)


def test_the_lines_tell_drift_and_bisector(cli: Cli, tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    ran = cli("diff", *adapters, "-o", tmp_path / "w.safetensors", "--bisector", "--rank", 2, "--complement", "--json")
    found = ran.json
    lines = cli("diff", *adapters, "-o", tmp_path / "w.safetensors", "-f", "--bisector", "--rank", 2, "--complement")
    text = lines.out
    drift = f"shared drift {found['norm_drift']:.4g}, {found['drift_ratio']:.3g} times half the difference"
    assert f"{drift}, cosine with the delta {found['cos_drift']:.3f}\n" in text
    mean = (found["norm_pos"] + found["norm_neg"]) / 2
    assert f"bisector: k = 1 of the plain difference is about k = {mean:.4g} of this one\n" in text
    assert f"what rank 2 leaves has {found['retained']:.2%} of the energy\n" in text
    assert found["spectrum"] is None and found["bisector"] is True and found["complement_of"] == 2


@pytest.mark.slow
def test_the_spectrum_is_summed_up_and_its_folder_named(cli: Cli, tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    arguments = ["diff", *adapters, "-o", tmp_path / "w.safetensors", "--spectrum", tmp_path / "s"]
    found = cli(*arguments, "--json").json["spectrum"]
    assert (found["output"], found["matrices"]) == (str(tmp_path / "s"), 21)
    lines = cli(*arguments, "-f").out.splitlines()
    assert lines[-2:] == [str(tmp_path / "s"), str(tmp_path / "w.safetensors")]
    header = next(i for i, line in enumerate(lines) if "stable rank" in line)
    assert lines[header].split("  ")[-1].strip() == "above random B"
    q_proj = next(line.split() for line in lines[header:] if line.startswith("q_proj"))
    values = found["modules"]["q_proj"]
    shown = (f"{values['rank']:g}", f"{values['stable_rank']:.2f}", f"{values['above']:g}")
    assert q_proj == ["q_proj", "3", *shown, f"{values['above_random_b']:g}"]
    record = json.loads((tmp_path / "s" / "wsteer.json").read_text())
    assert (record["command"], [entry["role"] for entry in record["inputs"]]) == ("diff", ["pos", "neg"])
