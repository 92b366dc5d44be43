"""Recipes are checked, and presets are the paper's."""

import pytest

from tests.helpers.command import Cli
from wsteer.errors import WsteerError
from wsteer.training.recipe import PRESETS, Recipe


@pytest.mark.parametrize(("field", "value"), [("val_fraction", 1.0), ("val_fraction", float("nan")), ("epochs", 0.0)])
def test_impossible_recipes_are_refused(field: str, value: float) -> None:
    with pytest.raises(WsteerError, match=f"--{field.replace('_', '-')}"):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "prefix"}, "--method prefix"),
        ({"lr": (1e-3, 1e-3)}, "twice"),
        ({"lr": -1.0}, "--lr"),
        ({"batch_size": 8, "micro_batch_size": 3}, "does not divide"),
        ({"fraction": 0.0}, "--fraction"),
        ({"dropout": 1.0}, "--dropout"),
        ({"epochs": float("inf")}, "--epochs"),
        ({"max_steps": 10**15}, "--max-steps"),
        ({"batch_size": 0}, "--batch-size"),
        ({"micro_batch_size": -1}, "--micro-batch-size"),
        ({"rank": 10**4000}, "--rank"),
        ({"alpha": float("nan")}, "--alpha"),
        ({"weight_decay": float("inf")}, "--weight-decay"),
        ({"warmup_steps": -1}, "--warmup-steps"),
        ({"eval_every": 0}, "--eval-every"),
        ({"patience": 10**10}, "--patience"),
        ({"method": "full", "rank": 4}, "--rank is for LoRA alone"),
        ({"method": "bias", "dropout": 0.1}, "--dropout is for LoRA alone"),
        ({"method": "full", "targets": ["q_proj"]}, "--targets is for LoRA alone"),
    ],
)
def test_impossible_options_of_recipes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(WsteerError, match=message):
        Recipe(**options)


def test_a_name_alone_is_a_list_of_one() -> None:
    assert Recipe(targets="q_proj").targets == ("q_proj",)
    assert Recipe(method="full", targets=[]).method == "full"


def test_presets_are_those_of_the_papers_table_1(cli: Cli) -> None:
    table = {  # learning rate, batch size, steps (None: one epoch), as Table 1 and section 5 print them
        "sycophancy": (1e-5, 8, 100),
        "gcd": (1e-5, 8, 100),
        "gcd-task": (2e-4, 16, None),
        "gcd-joint": (2e-4, 16, None),
        "evil": (1e-5, 8, None),
        "refusal-task": (2e-4, 8, None),
        "refusal-joint": (2e-4, 8, None),
        "refusal": (2e-4, 8, None),
        "refusal-evil": (5e-5, 8, 150),
        "monitoring": (1e-5, 8, None),
    }
    assert {name: (each.lr, each.batch_size, each.max_steps) for name, each in PRESETS.items()} == table
    ran = cli("finetune", "--preset", "list")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["preset", *table]
    assert cli("finetune", "--preset", "nosuch").code == 2
