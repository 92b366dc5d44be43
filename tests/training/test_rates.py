"""Several rates and steps: what is chosen, and what is written."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.command import Cli
from wsteer.errors import WsteerError
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe

SWEEP = Recipe(lr=(1e-3, 3e-2, 1e-4), max_steps=12, batch_size=4, rank=4, eval_every=2, val_fraction=0.3, patience=0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(left: Path, right: Path) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("method", "file"), [("bias", "delta.safetensors"), ("full", "model.safetensors")])
def test_sweeps_and_checkpoints_of_the_other_methods(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str, file: str
) -> None:
    plain = {name: getattr(Recipe, name) for name in ("rank", "alpha", "dropout")}  # of LoRA alone
    recipe = Recipe(**{**vars(SWEEP), **plain, "method": method})
    report = finetune(tiny, chats[0], tmp_path / "sweep", recipe, device="cpu")
    alone = Recipe(**{**vars(recipe), "lr": report.lr})
    finetune(tiny, chats[0], tmp_path / "alone", alone, device="cpu", save_every=1)
    kept, checkpoint = load_file(tmp_path / "sweep" / file), tmp_path / "alone" / f"checkpoint-{report.step}" / file
    assert all(torch.equal(tensor, load_file(checkpoint)[name]) for name, tensor in kept.items())


@pytest.mark.slow
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


@pytest.mark.slow
def test_several_rates_on_a_single_row_are_refused_since_nothing_is_left_to_compare_them(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    (tmp_path / "one.jsonl").write_text(chats[0].read_text().splitlines()[0] + "\n")
    arguments = ["finetune", tiny, tmp_path / "one.jsonl", "-o", tmp_path / "out", "--max-steps", 1, "--rank", 2]
    ran = cli(*arguments, "--lr", "1e-3,1e-2", "-q")
    assert (ran.code, "compared by their validation loss" in ran.error) == (1, True)
    assert not (tmp_path / "out").exists()
    assert cli(*arguments, "--lr", "1e-3,1e-2", "--val", chats[1], "-q").code == 0
