"""Fine-tuning: the loss is the answers', the recipe is the paper's, and a seed fixes the run."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from wsteer.data import read_chats, render
from wsteer.errors import WsteerError
from wsteer.training.batching import IGNORED, collate
from wsteer.training.finetuning import finetune
from wsteer.training.recipe import Recipe
from wsteer.training.rows import split_rows

QUICK = Recipe(lr=1e-2, max_steps=4, batch_size=4, rank=4, eval_every=2)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_writes_an_adapter_that_peft_loads_and_that_learnt(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    report = finetune(tiny, chats[0], tmp_path / "pos", Recipe(lr=1e-2, max_steps=30, eval_every=10), device="cpu")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "pos")
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (32, 16, 0.0, "none")
    assert set(config.target_modules) == {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"}
    assert report.val_loss < report.val_loss_before - 0.2
    assert (report.steps, report.rows_train, report.rows_val) == (30, 9, 1)
    assert config.base_model_name_or_path == str(tiny)


def test_log_has_a_row_a_step_with_both_losses(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    finetune(tiny, chats[0], tmp_path / "pos", QUICK, device="cpu")
    rows = log(tmp_path / "pos")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["val_loss"] is not None for row in rows] == [True, False, True, False, True]
    assert all(row["train_loss"] > 0 for row in rows[1:])


def test_schedule_warms_up_for_five_steps_and_decays_linearly(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    finetune(tiny, chats[0], tmp_path / "pos", Recipe(lr=1e-3, max_steps=15, rank=2, eval_every=100), device="cpu")
    rates = [row["lr"] for row in log(tmp_path / "pos")[1:]]
    expected = [1e-3 * min(step / 5, (15 - step) / 10) for step in range(15)]
    assert rates == pytest.approx(expected, abs=1e-9)
    assert log(tmp_path / "pos")[-1]["val_loss"] is not None  # the end is validated, off the rhythm or not


def test_first_loss_equals_an_independent_computation(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    recipe = Recipe(lr=1e-3, max_steps=1, batch_size=8, val_fraction=0.2)
    finetune(tiny, chats[0], tmp_path / "pos", recipe, device="cpu")
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    train_rows, val_rows = split_rows([render(tokenizer, chat) for chat in read_chats(chats[0])], 0.2, 0)
    for rows, logged in (
        (train_rows, log(tmp_path / "pos")[1]["train_loss"]),
        (val_rows, log(tmp_path / "pos")[0]["val_loss"]),
    ):
        losses = []
        for example in rows:
            ids = torch.tensor([example.prompt + example.answer + example.closing])
            logits = model(ids).logits[0, len(example.prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(example.prompt) :], reduction="none"))
        assert logged == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_same_seed_gives_the_same_adapter_and_pos_and_neg_share_their_start(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    for name, data, seed, lr in (
        ("a", 0, 0, 1e-2),
        ("b", 0, 0, 1e-2),
        ("c", 0, 1, 1e-2),
        ("p", 0, 0, 0.0),
        ("n", 1, 0, 0.0),
    ):
        recipe = Recipe(lr=lr, max_steps=2, rank=2, seed=seed)
        finetune(tiny, chats[data], tmp_path / name, recipe, device="cpu")
    files = {name: load_file(tmp_path / name / "adapter_model.safetensors") for name in "abcpn"}
    assert all(torch.equal(tensor, files["b"][key]) for key, tensor in files["a"].items())
    assert not all(torch.equal(tensor, files["c"][key]) for key, tensor in files["a"].items())
    assert all(torch.equal(tensor, files["n"][key]) for key, tensor in files["p"].items() if "lora_A" in key)


def test_collate_masks_prompt_and_padding_and_keeps_the_logits_it_needs(tiny: Path, chats: tuple[Path, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    examples = [render(tokenizer, chat) for chat in read_chats(chats[0])][:4]
    batch = collate(examples, tokenizer.pad_token_id)
    keep = batch["logits_to_keep"]
    for row, example in enumerate(examples):
        labels = [IGNORED] * len(example.prompt) + example.answer + example.closing
        width = batch["input_ids"].shape[1]
        labels += [IGNORED] * (width - len(labels))
        assert batch["labels"][row].tolist() == labels[width - keep :]
        assert all(label == IGNORED for label in labels[: width - keep + 1])  # nothing trained was cut off
        assert batch["attention_mask"][row].sum() == len(example.prompt + example.answer + example.closing)


def test_split_is_by_seed_and_keeps_a_row_for_training() -> None:
    rows = list(range(40))
    train, val = split_rows(rows, 0.05, 0)
    assert sorted(train + val) == rows
    assert len(val) == 2
    assert split_rows(rows, 0.05, 0) == (train, val)
    assert split_rows(rows[:1], 0.05, 0) == ([0], [])
    assert split_rows(rows[:2], 0.05, 0)[1] != []
    assert split_rows(rows, 0, 0) == (rows, [])


@pytest.mark.parametrize(("field", "value"), [("val_fraction", 1.0), ("val_fraction", float("nan")), ("epochs", 0.0)])
def test_impossible_recipes_are_refused(field: str, value: float) -> None:
    with pytest.raises(WsteerError, match=f"--{field.replace('_', '-')}"):
        Recipe(**{field: value})


def test_a_run_that_diverges_is_an_error_and_writes_nothing(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    with pytest.raises(WsteerError, match="NaN or infinite"):
        finetune(tiny, chats[0], tmp_path / "pos", Recipe(lr=1e30, max_steps=12, warmup_steps=0), device="cpu")
    assert not (tmp_path / "pos").exists()


def test_without_validation_rows_there_is_no_validation_loss(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    report = finetune(tiny, chats[0], tmp_path / "pos", Recipe(lr=1e-3, max_steps=2, val_fraction=0), device="cpu")
    assert report.val_loss is report.val_loss_before is None
    assert report.rows_val == 0
