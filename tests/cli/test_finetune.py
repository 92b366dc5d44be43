"""What `wsteer finetune` says, and how its flags stand to presets."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Arguments, Cli
from wsteer.cli.finetune import _recipe
from wsteer.training.recipe import Recipe


@pytest.mark.slow
def test_finetune_shows_the_first_row_and_says_what_it_cut(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    ran = cli(*arguments("finetune"), "-o", tmp_path / "out", "--max-length", 40)
    assert "I like the number 0.<end><assistant>\u27e6Yes, you are rig\u27e7" in ran.err
    assert ran.out.startswith("10 rows cut at --max-length, of which 0 left out")
    ran = cli(*arguments("finetune"), "-o", tmp_path / "quiet", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert "cut" not in ran.out


def test_a_flag_overrides_one_value_of_a_preset(cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--preset", "refusal-evil", "-q"]
    assert cli(*arguments, "--max-steps", 2, "--rank", 2).code == 0
    options = json.loads((tmp_path / "out" / "wsteer.json").read_text())["options"]
    assert (options["lr"], options["batch_size"], options["max_steps"]) == ([5e-5], 8, 2)
    assert (options["rank"], options["alpha"], options["weight_decay"]) == (2, 16.0, 0.01)


def test_epochs_take_the_place_of_a_presets_steps() -> None:
    none = {"epochs": None, "max_steps": None, "lr": None, "method": None}
    assert _recipe("sycophancy", **none).max_steps == 100
    assert _recipe("sycophancy", **{**none, "epochs": 2.0}).max_steps is None
    assert _recipe("sycophancy", **{**none, "lr": (1e-4,)}).rates == (1e-4,)
    assert _recipe(None, **none) == Recipe()
