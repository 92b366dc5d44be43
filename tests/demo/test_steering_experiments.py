"""Sycophancy and evil: their lines parse, what they compare is there, and they run on a tiny model."""

import re
from pathlib import Path

import pytest

from tests.cli.test_readmes import complaint
from tests.helpers.command import Cli
from tests.helpers.tiny import save_model
from wsteer.demo.experiment import PLACE, Experiment, commands, read_experiment
from wsteer.files.text import read_json

NAMES = ("sycophancy", "evil")
SCALES = ("small", "paper")
LEFT_OUT = {
    "sycophancy": {"layers", "tone"},
    "evil": {"layers", "rate", "reasons", "consistency"},
}  # findings without results at small


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_line_parses(name: str, scale: str) -> None:
    found = commands(read_experiment(name), scale)
    assert {each.text: told for each in found if (told := complaint(each.words)) is not None} == {}


@pytest.mark.parametrize("name", NAMES)
def test_only_judged_steps_lack_something_at_small_and_none_at_paper(name: str) -> None:
    experiment = read_experiment(name)
    assert [each.missing for each in commands(experiment, "paper") if each.missing] == []
    lacking = [each for each in commands(experiment, "small") if each.missing]
    assert [each.missing for each in lacking] == ["judge"]
    assert all(scale.about for scale in experiment.scales.values())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_each_finding_has_its_results_or_is_left_out(name: str, scale: str) -> None:
    experiment = read_experiment(name)
    made = {each.words[each.words.index("-o") + 1] for each in commands(experiment, scale) if not each.missing}
    lacking = {finding.name for finding in experiment.findings if finding.results not in made}
    assert lacking == (LEFT_OUT[name] if scale == "small" else set())


def test_the_papers_layers_are_counted_from_0() -> None:
    blocks = {name: read_experiment(name).scales["paper"].values["block"] for name in NAMES}
    assert blocks == {"sycophancy": "11", "evil": "16"}  # layers 12 and 17


def unknown(experiment: Experiment, folder: Path) -> list[str]:
    """Conditions and metrics of rules that are not in the results of a run, and pictures that are not there."""
    told = []
    for finding in experiment.findings:
        if not (folder / finding.results / "results.json").exists():
            continue
        results = read_json(folder / finding.results / "results.json")
        conditions = {each[key] for each in results["conditions"] for key in ("label", "method")}
        measures = {each["metric"] for each in results["measures"]}
        measures |= {f"{each['task']}.{each['metric']}" for each in results["measures"]}
        nothing = all(each["value"] is None for each in results["estimates"] if each["metric"] == "non_sycophancy")
        if not (folder / finding.results / f"{finding.picture}.svg").exists() and (
            not nothing or experiment.name != "sycophancy"  # no fact is answered right: there is nothing to draw
        ):
            told.append(f"{finding.name}: {finding.picture}.svg")
        for rule in finding.rules:
            named = {str(rule[key]) for key in ("more", "less", "than") if key in rule}
            asked = {str(rule[key]) for key in ("metric", "keep") if key in rule}
            asked = {PLACE.sub(lambda found: experiment.scales["small"].values[found[1]], each) for each in asked}
            told += [f"{finding.name}: {each}" for each in sorted(named - conditions | asked - measures)]
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_small_runs_on_a_tiny_model_and_the_rules_name_what_it_finds(
    name: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "tiny", num_hidden_layers=3, max_position_embeddings=1024)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    experiment = read_experiment(name)
    for command in commands(experiment, "small", str(base)):
        if command.missing:
            continue
        words = [re.sub(r"=(8|9[0-9])$", "=4", word) if "max_tokens" in word else word for word in command.words]
        if words[0] == "eval":
            own = words.index("--limit") if "--limit" in words else len(words)
            words[own : own + 2] = ["--limit", "4"]
        ran = cli(*words, "--quiet")
        assert ran.code == 0, f"{command.text}\n{ran.err}"
    assert unknown(experiment, tmp_path / "out") == []
