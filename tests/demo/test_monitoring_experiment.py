"""Monitoring: its lines parse, its rules name what it compares, and it runs on a tiny model."""

from pathlib import Path

import pytest

from tests.cli.test_readmes import complaint
from tests.helpers.command import Cli
from tests.helpers.tiny import save_model
from wsteer.demo.experiment import Experiment, commands, read_experiment
from wsteer.demo.findings import judge

SCALES = ("small", "paper")
JUDGED = {"misaligned", "misaligned-through-training"}  # findings that need a judge


@pytest.fixture
def experiment() -> Experiment:
    return read_experiment("monitoring")


@pytest.mark.parametrize("scale", SCALES)
def test_every_line_parses(experiment: Experiment, scale: str) -> None:
    found = commands(experiment, scale)
    assert {each.text: told for each in found if (told := complaint(each.words)) is not None} == {}


@pytest.mark.parametrize("scale", SCALES)
def test_a_finding_lacks_its_results_only_for_want_of_a_judge(experiment: Experiment, scale: str) -> None:
    made = {each.words[each.words.index("-o") + 1] for each in commands(experiment, scale) if not each.missing}
    lacking = {finding.name for finding in experiment.findings if finding.results not in made}
    assert lacking == (JUDGED if scale == "small" else set())


def test_the_paper_scale_brings_its_data_and_its_judge(experiment: Experiment) -> None:
    lines = [each.text for each in commands(experiment, "paper")]
    assert not [line for line in lines if "generate" in line]
    sides = {
        f"../{name}/{side}.jsonl"
        for name in ("medicine", "finance", "sport", "evil", "french")
        for side in ("pos", "neg")
    }
    assert set(experiment.bring) == {*sides, "../first_plot_questions.yaml"}
    assert [each.missing for each in commands(experiment, "paper") if each.missing] == []


@pytest.mark.slow
def test_small_runs_on_a_tiny_model_and_the_rules_name_what_it_compares(
    experiment: Experiment, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "tiny", max_position_embeddings=1024)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    unjudged = [each for each in commands(experiment, "small", str(base)) if each.missing is None]
    for command in unjudged:
        if "--report" in command.words:
            continue
        cut = {"eval": ["--limit", "2"], "finetune": ["--rank", "2"]}.get(command.words[0], [])
        ran = cli(*command.words, *cut, "--quiet")
        assert ran.code in ((0, 3) if command.step.gate else (0,)), f"{command.text}\n{ran.err}"
    found = {each.finding.name: each for each in judge(experiment, "small", tmp_path / "out")}
    assert {name for name, each in found.items() if each.verdict == "left out"} == JUDGED
    for name, each in found.items():
        folder = tmp_path / "out" / each.finding.results
        assert name in JUDGED or (folder / f"{each.finding.picture}.svg").is_file()
