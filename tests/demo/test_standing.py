"""Which steps of an experiment ran, were left out or are to be run, told from the outputs in its folder."""

from pathlib import Path

import pytest

from tests.helpers.experiments import experiment
from wsteer.demo.standing import output_of, standing

CHAIN = [
    {"does": "data", "run": "wsteer generate opinions -o data"},
    {"does": "paper's data", "only": "paper", "run": "wsteer generate {model} sycophancy -o data"},
    {"does": "scores", "run": "wsteer generate {model} evil --judge {judge} -o judged"},
    {"does": "tune", "run": "wsteer finetune {model} judged/pos.jsonl -o pos"},
    {"does": "compare", "run": "wsteer eval {model} --delta w=pos@12 --delta a.safetensors -o eval"},
    {"does": "other", "run": "wsteer monitor judged2 other/pos -o monitor"},
    {"does": "report", "run": "wsteer demo own --scale small --report"},
]


def test_steps_are_told_from_the_outputs_that_stand(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = standing(experiment(tmp_path, steps=CHAIN), "small", tmp_path)
    assert [(each.command.step.does, each.state) for each in found] == [
        ("data", "ran"),
        ("scores", "left out"),
        ("tune", "left out"),
        ("compare", "left out"),
        ("other", "not run"),
        ("report", "ran"),
    ]
    assert found[1].why == "it asks for a judge, and there is none: never graded by the model under test"
    assert found[2].why == "it needs judged, and the step that makes it is left out (scores)"
    assert found[3].why == "it needs pos, and the step that makes it is left out (tune)"
    assert found[4].why == "monitor is not in the folder"


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["eval", "m", "-o", "eval"], "eval"),
        (["eval", "--output", "eval", "m"], "eval"),
        (["eval", "--output=a=b", "m"], "a=b"),
        (["demo", "own", "--report"], None),
    ],
)
def test_an_output_is_what_a_command_names_with_o(words: list[str], output: str | None) -> None:
    assert output_of(words) == output
