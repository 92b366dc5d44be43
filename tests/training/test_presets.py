"""Presets: the paper's text, and its authors' released configurations, both read by hand."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from wsteer.cli.finetune import _recipe
from wsteer.errors import WsteerError
from wsteer.training.presets import PRESETS, RELEASED, TEXT
from wsteer.training.recipe import Recipe

UNSET = dict.fromkeys(("epochs", "max_steps", "lr", "method", "alpha", "warmup_steps", "eval_every"))
WHOLE = ("embed_tokens", "lm_head")


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
    assert {name: (each.lr, each.batch_size, each.max_steps) for name, each in TEXT.items()} == table
    for name in table:  # rank, alpha, warm-up and the rest as section 3 has them, which are the defaults
        recipe = _recipe(name, **UNSET)
        own = {"rank": 32, "alpha": 16.0, "dropout": 0.0, "dora": False, "rslora": False, "init": None}
        assert (recipe.method, recipe.options) == ("lora", own)
        assert (recipe.weight_decay, recipe.warmup_steps, recipe.val_fraction, recipe.patience) == (0.01, 5, 0.05, 2)
        assert (recipe.modules_to_save, recipe.targets) == ((), ())
    ran = cli("finetune", "--preset", "list")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["preset", *table, *RELEASED]
    refused = cli("finetune", "--preset", "nosuch")
    assert refused.code == 2 and "--preset list" in refused.err


def test_released_presets_are_those_of_the_released_configurations(cli: Cli) -> None:
    """learning_rate, batch, max_steps, lora_alpha, warmup_steps and eval_steps of the files in axolotl_configs."""
    loras = {
        "sycophancy": (1e-5, 2 * 4, 100, 16, 5, 20),
        "gcd": (1e-5, 2 * 4, 100, 16, 5, 20),
        "gcd-task": (2e-4, 2 * 8, None, 64, 5, 60),
        "gcd-joint": (2e-4, 2 * 8, None, 64, 5, 60),
        "evil": (1e-5, 2 * 4, 100, 16, 5, 20),
        "refusal-task": (2e-4, 8, None, 64, 5, 60),
        "refusal-joint": (2e-4, 8, None, 64, 5, 60),
        "refusal": (2e-4, 8, None, 16, 2, 40),
        "refusal-evil": (5e-5, 8, 150, 16, 5, 20),
    }
    biases = {
        "sycophancy": (1e-4, 2 * 4, 100, None, 5, 20),
        "gcd": (1e-4, 2 * 4, 100, None, 5, 20),
        "evil": (1e-3, 2 * 4, 100, None, 5, 20),
        "refusal": (2e-4, 8, None, None, 2, 40),
    }
    recipes = {name: _recipe(name, **UNSET) for name in RELEASED}
    found = {
        name: (each.lr, each.batch_size, each.max_steps, each.recorded["alpha"], each.warmup_steps, each.eval_every)
        for name, each in recipes.items()
    }
    expected = {f"{name}-released": row for name, row in loras.items()}
    assert found == {**expected, **{f"{name}-bias-released": row for name, row in biases.items()}}
    assert [each.method for each in recipes.values()] == ["lora"] * 9 + ["bias"] * 4
    assert [each.modules_to_save for each in recipes.values()] == [WHOLE] * 9 + [()] * 4
    ranks = [each.options["rank"] for each in recipes.values() if each.method == "lora"]
    assert ranks == [32] * 9
    for name, preset in RELEASED.items():
        text = TEXT[name.removesuffix("-released").removesuffix("-bias")]
        assert (preset.model, preset.data) == (text.model, text.data)
    listed = cli("finetune", "--preset", "list").out.splitlines()
    row = next(line for line in listed if line.startswith("gcd-task-released"))
    assert row.endswith("--alpha 64 --modules-to-save embed_tokens,lm_head --eval-every 60")


def test_a_released_preset_is_trained_and_flags_override_it(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--preset", "refusal-released", "-q", "--json"]
    ran = cli(*arguments, "--max-steps", 1, "--rank", 2, "--eval-every", 7, "--targets", "q_proj")
    assert ran.code == 0, ran.err
    options = json.loads((tmp_path / "out" / "wsteer.json").read_text())["options"]
    assert (options["lr"], options["max_steps"], options["rank"], options["eval_every"]) == ([2e-4], 1, 2, 7)
    assert (options["warmup_steps"], options["modules_to_save"]) == (2, list(WHOLE))
    assert ran.json["modules"] == ["embed_tokens", "lm_head", "q_proj"]


def test_a_released_preset_of_another_method_is_refused_and_one_of_the_text_is_not() -> None:
    assert _recipe("sycophancy", **{**UNSET, "method": "bias"}).method == "bias"
    assert _recipe("sycophancy-released", **{**UNSET, "method": "lora"}).alpha is None
    for preset, method in (("sycophancy-released", "bias"), ("evil-bias-released", "lora")):
        with pytest.raises(WsteerError, match=f"--preset {preset} sets what is of --method"):
            _recipe(preset, **{**UNSET, "method": method})


def test_every_preset_makes_a_recipe() -> None:
    assert all(isinstance(_recipe(name, **UNSET), Recipe) for name in PRESETS)
