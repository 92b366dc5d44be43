"""Several rates, steps and data sets: what is chosen, what is written, what the presets say."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Cli
from wsteer.cli.finetune import _recipe
from wsteer.errors import WsteerError
from wsteer.training.finetune import finetune
from wsteer.training.recipe import PRESETS, Recipe
from wsteer.training.rows import mixed, parse_source

SWEEP = Recipe(lr=(1e-3, 3e-2, 1e-4), max_steps=12, batch_size=4, rank=4, eval_every=2, val_fraction=0.3, patience=0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(left: Path, right: Path) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_sweep_keeps_the_rate_and_step_of_the_lowest_validation_loss(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    report = finetune(tiny, chats[0], tmp_path / "sweep", SWEEP, device="cpu")
    rows = log(tmp_path / "sweep")
    validated = [row for row in rows if row["val_loss"] is not None and row["step"] > 0]
    lowest = min(validated, key=lambda row: row["val_loss"])
    assert (report.lr, report.step, report.val_loss) == (lowest["rate"], lowest["step"], lowest["val_loss"])
    assert [each["rate"] for each in report.rates] == [1e-3, 3e-2, 1e-4]
    assert len({row["val_loss"] for row in rows if row["step"] == 0}) == 1  # all rates begin with the same weights
    # an independent run of that rate alone, which saved every step
    alone = Recipe(**{**vars(SWEEP), "lr": report.lr})
    finetune(tiny, chats[0], tmp_path / "alone", alone, device="cpu", save_every=1)
    assert same(tmp_path / "sweep", tmp_path / "alone" / f"checkpoint-{report.step}")
    assert same(tmp_path / "sweep", tmp_path / "alone")
    table = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert [float(row["val_loss"]) for row in table if row["kept"] == "1"] == [report.val_loss]
    assert len(table) == 3 * 7
    means = [row["train_loss"] for row in rows if row["rate"] == 1e-3 and row["step"] in (1, 2)]
    assert float(table[1]["train_loss"]) == pytest.approx(sum(means) / 2)
    assert (tmp_path / "sweep" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "sweep" / "states").exists()


def test_an_early_step_is_kept_where_later_ones_are_worse(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--lr", "0.3", "--rank", 4, "--max-steps", 40]
    ran = cli(*arguments, "--eval-every", 1, "--val", chats[1], "--json")
    rows = log(tmp_path / "out")
    losses = [row["val_loss"] for row in rows[1:]]
    assert ran.json["step"] == 1 + losses.index(min(losses))
    assert len(losses) == ran.json["steps"] == ran.json["step"] + 2  # and no more than two are trained in vain
    assert ran.json["steps"] < 40


def test_checkpoints_are_adapters_of_the_chosen_rate(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    report = finetune(tiny, chats[0], tmp_path / "sweep", SWEEP, device="cpu", save_every=5)
    assert sorted(path.name for path in (tmp_path / "sweep").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]
    finetune(tiny, chats[0], tmp_path / "five", Recipe(**{**vars(SWEEP), "lr": report.lr}), device="cpu", save_every=5)
    assert same(tmp_path / "sweep" / "checkpoint-5", tmp_path / "five" / "checkpoint-5")
    assert not same(tmp_path / "sweep" / "checkpoint-5", tmp_path / "sweep" / "checkpoint-10")
    ran = cli("diff", tmp_path / "sweep" / "checkpoint-5", "-o", tmp_path / "tau.safetensors", "--json")
    assert ran.json["kind"] == "task_vector"


@pytest.mark.parametrize(("method", "file"), [("bias", "delta.safetensors"), ("full", "model.safetensors")])
def test_sweeps_and_checkpoints_of_the_other_methods(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str, file: str
) -> None:
    recipe = Recipe(**{**vars(SWEEP), "method": method})
    report = finetune(tiny, chats[0], tmp_path / "sweep", recipe, device="cpu")
    alone = Recipe(**{**vars(recipe), "lr": report.lr})
    finetune(tiny, chats[0], tmp_path / "alone", alone, device="cpu", save_every=1)
    kept, checkpoint = load_file(tmp_path / "sweep" / file), tmp_path / "alone" / f"checkpoint-{report.step}" / file
    assert all(torch.equal(tensor, load_file(checkpoint)[name]) for name, tensor in kept.items())


def test_a_rate_that_diverges_is_named_and_another_kept(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--max-steps", 12, "--warmup-steps", 0]
    ran = cli(*arguments, "--lr", "1e30,1e-3", "--json", "-q")
    assert ran.code == 0, ran.err
    assert (ran.json["lr"], [each["diverged"] for each in ran.json["rates"]]) == (1e-3, [True, False])
    assert "--lr 1e+30" in ran.json["warnings"][0]


def test_a_sweep_needs_validation(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    with pytest.raises(WsteerError, match="--val"):
        finetune(tiny, chats[0], tmp_path / "out", Recipe(lr=(1e-3, 1e-4), val_fraction=0), device="cpu")


def test_joint_data_are_taken_by_weight_and_no_copy_of_a_validation_row_is_trained(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = ["finetune", tiny, chats[0], f"{chats[1]}:6", "-o", tmp_path / "joint", "--max-steps", 1, "--rank", 2]
    ran = cli(*arguments, "--val-fraction", 0.2, "--json", "-q")
    assert (ran.json["rows_train"], ran.json["rows_val"]) == (8 + 6 * 8, 4)
    record = json.loads((tmp_path / "joint" / "wsteer.json").read_text())
    assert [each["weight"] for each in record["inputs"] if each["role"] == "data"] == [1.0, 6.0]
    ran = cli(*arguments[:4], "-o", tmp_path / "part", "--max-steps", 1, "--fraction", 0.5, "--val", chats[0], "--json")
    assert (ran.json["rows_train"], ran.json["rows_val"]) == (5 + 30, 10)


def test_weights_and_fractions_take_whole_copies_and_then_a_draw() -> None:
    rows = list("abcdefghij")
    assert mixed([rows, ["x", "y"]], [1.0, 3.0], 1.0, 0) == [*rows, *"xyxyxy"]
    drawn = mixed([rows], [2.5], 1.0, 0)
    assert drawn[:20] == rows + rows
    assert len(set(drawn[20:])) == len(drawn[20:]) == 5
    assert drawn == mixed([rows], [2.5], 1.0, 0)
    assert drawn != mixed([rows], [2.5], 1.0, 1)
    assert len(mixed([rows, rows], [1.0, 2.0], 0.1, 0)) == 3
    assert len(mixed([rows], [1e-3], 1.0, 0)) == 1  # never nothing


def test_weights_are_read_from_the_end_and_files_come_first(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl:2").write_text("")
    assert parse_source(tmp_path / "data.jsonl:2").weight == 1.0
    assert (parse_source("a/b:train").path, parse_source("a/b:train").weight) == ("a/b:train", 1.0)
    assert (parse_source("neg.jsonl:.5").path, parse_source("neg.jsonl:.5").weight) == ("neg.jsonl", 0.5)
    with pytest.raises(WsteerError, match="above 0"):
        parse_source("neg.jsonl:0")


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


def test_a_flag_overrides_one_value_of_a_preset(cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--preset", "refusal-evil", "-q"]
    assert cli(*arguments, "--max-steps", 2, "--rank", 2).code == 0
    options = json.loads((tmp_path / "out" / "wsteer.json").read_text())["options"]
    assert (options["lr"], options["batch_size"], options["max_steps"]) == ([5e-5], 8, 2)
    assert (options["rank"], options["alpha"], options["weight_decay"]) == (2, 16.0, 0.01)


def test_epochs_take_the_place_of_a_presets_steps() -> None:
    none = {"epochs": None, "max_steps": None, "lr": None}
    assert _recipe("sycophancy", **none).max_steps == 100
    assert _recipe("sycophancy", **{**none, "epochs": 2.0}).max_steps is None
    assert _recipe("sycophancy", **{**none, "lr": (1e-4,)}).rates == (1e-4,)
    assert _recipe(None, **none) == Recipe()
