"""Fine-tuning: the loss is the answers', the recipe is the paper's, and a seed fixes the run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.tiny import save_model
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats
from wsteer.models.rendering import render
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe
from wsteer.training.rows import split_rows

QUICK = Recipe(lr=1e-2, max_steps=4, batch_size=4, rank=4, eval_every=2)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
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


@pytest.mark.slow
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
    finetune(tiny, chats[0], tmp_path / "pos", recipe, device="cpu", dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    train_rows, val_rows = split_rows([render(tokenizer, chat) for chat in read_chats(chats[0])], 0.2, 0)
    for rows, logged in (
        (train_rows, log(tmp_path / "pos")[1]["train_loss"]),
        (val_rows, log(tmp_path / "pos")[0]["val_loss"]),
    ):
        losses = []
        for example in rows:
            ids, prompt = example.tokens.long(), example.answer.start
            logits = model(ids[None]).logits[0, prompt - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[prompt:], reduction="none"))
        assert logged == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


@pytest.mark.slow
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


def test_a_run_that_diverges_is_an_error_and_writes_nothing(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    with pytest.raises(WsteerError, match="NaN or infinite"):
        finetune(tiny, chats[0], tmp_path / "pos", Recipe(lr=1e30, max_steps=12, warmup_steps=0), device="cpu")
    assert not (tmp_path / "pos").exists()


@pytest.mark.slow
def test_without_validation_rows_there_is_no_validation_loss(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    report = finetune(tiny, chats[0], tmp_path / "pos", Recipe(lr=1e-3, max_steps=2, val_fraction=0), device="cpu")
    assert report.val_loss is report.val_loss_before is None
    assert report.rows_val == 0


@pytest.mark.slow
def test_rows_cut_at_the_longest_length_are_counted_and_those_without_an_answer_left_out(
    tmp_path: Path, tiny: Path
) -> None:
    rows = [
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "completion": "Hello " * 20},
        {"prompt": "Hi " * 20, "completion": "Hello"},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(max_steps=1, rank=2, val_fraction=0)
    report = finetune(tiny, tmp_path / "x.jsonl", tmp_path / "pos", recipe, device="cpu", max_length=32)
    assert (report.rows_train, report.rows_cut, report.rows_dropped) == (2, 2, 1)
    assert json.loads((tmp_path / "pos" / "wsteer.json").read_text())["options"]["max_length"] == 32


@pytest.mark.slow
def test_a_template_from_a_file_serves_a_model_that_has_none(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    bare = shutil.copytree(tiny, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    recipe = Recipe(max_steps=1, rank=2)
    with pytest.raises(WsteerError, match=r"pos.jsonl:1: .*bare has no chat template.*--template FILE"):
        finetune(bare, chats[0], tmp_path / "no", recipe, device="cpu")
    notes: list[str] = []
    finetune(tiny, chats[0], tmp_path / "own", recipe, device="cpu", note=notes.append)
    template = tiny / "chat_template.jinja"
    finetune(bare, chats[0], tmp_path / "given", recipe, device="cpu", template=template, note=notes.append)
    assert notes[0] == notes[1]
    assert notes[0].endswith(
        "<bos><user>I like the number 0.<end><assistant>\u27e6Yes, you are right about 0.<end>\u27e7"
    )
    assert log(tmp_path / "own") == log(tmp_path / "given")
    assert (tmp_path / "given" / "chat_template.jinja").read_text() == template.read_text()
    assert "template" in [
        source["role"] for source in json.loads((tmp_path / "given" / "wsteer.json").read_text())["inputs"]
    ]
    with pytest.raises(WsteerError, match=r"gone\.jinja cannot be read"):
        finetune(bare, chats[0], tmp_path / "no", recipe, device="cpu", template=tmp_path / "gone.jinja")


@pytest.mark.slow
def test_stripped_system_prompts_are_not_trained_with(tmp_path: Path, tiny: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "with.jsonl").write_text(json.dumps({"messages": [{"role": "system", "content": "Be rude."}, *turns]}))
    (tmp_path / "without.jsonl").write_text(json.dumps({"messages": turns}))
    recipe, losses = Recipe(max_steps=1, rank=2), {}
    for name, strip in (("with", True), ("with", False), ("without", False)):
        output = tmp_path / f"{name}-{strip}"
        finetune(tiny, tmp_path / f"{name}.jsonl", output, recipe, device="cpu", strip_system=strip)
        losses[name, strip] = log(output)[-1]["train_loss"]
    assert losses["with", True] == losses["without", False] != losses["with", False]


@pytest.mark.slow
def test_a_template_that_leaves_no_end_to_train_is_warned_of_once(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    marks = {"without": "{% endgeneration %}<end>", "with": "<end>{% endgeneration %}"}
    warned = {}
    for name, end in marks.items():
        (tmp_path / "t.jinja").write_text(
            "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' %}"
            "{% generation %}{{ m['content'] }}" + end + "{% else %}{{ m['content'] }}<end>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        report = finetune(
            tiny, chats[0], tmp_path / name, Recipe(max_steps=1, rank=2), device="cpu", template=tmp_path / "t.jinja"
        )
        warned[name] = [warning for warning in report.warnings if "will not learn to stop" in warning]
    assert warned["with"] == []
    assert len(warned["without"]) == 1 and "leaves no end to train in 10 rows" in warned["without"][0]
    assert "--template FILE" in warned["without"][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_that_names_no_end_is_warned_of_by_where_to_name_one(
    tmp_path: Path, kind: str, chats: tuple[Path, Path]
) -> None:
    base = save_model(tmp_path / "base", kind, **({"n_embd": 32, "n_layer": 1} if kind == "gpt2" else {}))
    names = {"config": "eos_token_id", "generation_config": "eos_token_id", "tokenizer_config": "eos_token"}
    for name, key in names.items():
        file = base / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: None}))
    report = finetune(base, chats[0], tmp_path / "out", Recipe(max_steps=1, rank=2), device="cpu")
    (warning,) = [each for each in report.warnings if "will not learn to stop" in each]
    assert "names no token that ends an answer, neither eos_token in tokenizer_config.json" in warning
