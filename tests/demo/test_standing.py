"""Which steps of an experiment ran, were left out or are to be run, told from the outputs in its folder."""

from pathlib import Path

import pytest

from tests.helpers.experiments import experiment
from wsteer.demo.standing import standing

RULE = {"metric": "kept", "more": "w", "than": "base"}

CHAIN = [
    {"does": "data", "run": "wsteer generate opinions -o data"},
    {"does": "paper's data", "only": "paper", "run": "wsteer generate {model} sycophancy -o data"},
    {"does": "scores", "run": "wsteer generate {model} evil --judge {judge} -o judged"},
    {"does": "tune", "run": "wsteer finetune {model} judged/pos.jsonl -o pos"},
    {"does": "compare", "run": "wsteer eval {model} --delta w=pos@12 --delta a.safetensors -o eval"},
    {"does": "other", "run": "wsteer monitor judged2 other/pos -o monitor"},
]


@pytest.mark.parametrize("written", [False, True])
def test_steps_are_told_from_the_outputs_that_stand(tmp_path: Path, written: bool) -> None:
    (tmp_path / "data").mkdir()
    if written:  # a page that is there changes nothing: written again it is the same
        (tmp_path / "report.html").touch()
    found = standing(experiment(tmp_path, {"rules": [RULE]}, steps=CHAIN), "small", tmp_path)
    assert [(each.step.command.step.does, each.state, each.why) for each in found] == [
        ("data", "ran", ""),
        ("scores", "left out", "there is no judge: never graded by the model under test"),
        ("tune", "left out", "it needs judged, which is left out"),
        ("compare", "left out", "it needs pos, which is left out"),
        ("other", "not run", "monitor is not in the folder"),
        ("The paper's findings beside ours, and whether they agree", "ran", ""),
    ]
    assert found[-1].step.text == "wsteer demo own.yaml --scale small --report -o ."
