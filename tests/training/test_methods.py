"""LoRA, bias-only and full fine-tuning against a loop of plain torch, and the files that each writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed

from tests.helpers.command import Cli
from tests.helpers.tiny import save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats
from wsteer.models.loading import load
from wsteer.models.rendering import Example, render
from wsteer.training.finetune import finetune
from wsteer.training.methods import copied_state, prepare, save
from wsteer.training.recipe import Recipe
from wsteer.training.steps import run_batches

RATE, STEPS = 2e-3, 12


def trained_losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["train_loss"] for row in rows if row["train_loss"] is not None]


def rows_of(base: Path, data: Path) -> list[Example]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    return [render(tokenizer, chat) for chat in read_chats(data)]


def with_lora(model: PreTrainedModel) -> nn.Module:
    set_seed(0)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))


def with_biases(model: PreTrainedModel) -> nn.Module:
    model.requires_grad_(False)
    for block in model.model.layers:
        block.mlp.down_proj.bias = nn.Parameter(torch.zeros(block.mlp.down_proj.out_features))
    return model


def with_written_biases(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    for name, change in load_file(folder / "delta.safetensors").items():
        model.get_submodule(name.removesuffix(".bias")).bias = nn.Parameter(change)
    return model


class Method(NamedTuple):
    """What the base becomes before it is trained, and what base and written folder give together."""

    prepared: Callable[[PreTrainedModel], nn.Module]
    reloaded: Callable[[PreTrainedModel, Path], PreTrainedModel]


METHODS = {
    "lora": Method(with_lora, PeftModel.from_pretrained),
    "bias": Method(with_biases, with_written_biases),
    "full": Method(lambda model: model, lambda model, folder: AutoModelForCausalLM.from_pretrained(folder)),
}


def plain_loop(model: nn.Module, rows: list[Example], batches: list[list[int]]) -> list[float]:
    """Row by row, without padding: AdamW with decay on all but biases and norms, 5 steps of warm-up, clipping at 1."""
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    spared = [each for name, each in parameters.items() if name.endswith("bias") or "norm" in name]
    decayed = [each for name, each in parameters.items() if not (name.endswith("bias") or "norm" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=RATE)
    losses = []
    for step, batch in enumerate(batches):
        total, count = 0.0, 0
        for index in batch:
            example = rows[index]
            ids = example.tokens.long()[None]
            logits = model(input_ids=ids).logits[0, :-1]
            losses_here = nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            total = total + losses_here[example.trained[1:]].sum()
            count += int(example.trained[1:].sum())
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(step / 5, (len(batches) - step) / (len(batches) - 5))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro", [None, 2])
def test_losses_equal_those_of_a_plain_loop(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str, micro: int | None
) -> None:
    recipe = Recipe(
        method=method,
        lr=RATE,
        max_steps=STEPS,
        batch_size=4,
        micro_batch_size=micro,
        val_fraction=0,
        **({"rank": 4} if method == "lora" else {}),
    )
    finetune(tiny, chats[0], tmp_path / "out", recipe, device="cpu", dtype="float32")
    rows = rows_of(tiny, chats[0])
    batches = run_batches([len(row.tokens) for row in rows], 4, 1.0, STEPS, 0)
    model = METHODS[method].prepared(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32))
    expected = plain_loop(model, rows, batches)
    assert trained_losses(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.01  # it learns, so that a loss that stays is none that passes
    written = METHODS[method].reloaded(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "out")
    ids = rows[0].tokens.long()[None]
    assert torch.allclose(written(input_ids=ids).logits, model(input_ids=ids).logits, atol=2e-4)


@pytest.mark.slow
def test_bias_delta_is_taken_by_diff_and_its_difference_by_eval_and_steer(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    for side, data in zip(("pos", "neg"), chats, strict=True):
        arguments = ["finetune", tiny, data, "-o", tmp_path / side, "--method", "bias", "--lr", "1e-2"]
        assert cli(*arguments, "--max-steps", 6, "-q").code == 0
    ran = cli("diff", tmp_path / "pos", tmp_path / "neg", "-o", tmp_path / "w.safetensors", "--json")
    assert (ran.json["kind"], ran.json["parameters"], ran.json["dense"]) == ("contrastive", 3, 3)
    pos, neg = (load_file(tmp_path / side / "delta.safetensors") for side in ("pos", "neg"))
    w = Delta.load(tmp_path / "w.safetensors")
    assert sorted(w.terms) == [f"model.layers.{block}.mlp.down_proj.bias" for block in range(3)]
    for name in w.terms:
        assert torch.allclose(w.change(name).rows(0, 32), pos[name] - neg[name], atol=1e-7)
    assert w.base["fingerprint"] == Delta.load(tmp_path / "pos" / "delta.safetensors").base["fingerprint"]
    assert cli("steer", tiny, tmp_path / "w.safetensors", "--k", 1, "-o", tmp_path / "steered", "-q").code == 0


@pytest.mark.slow
def test_bias_of_a_model_that_has_one_changes_from_where_it_was(tmp_path: Path, chats: tuple[Path, Path]) -> None:
    base = save_model(tmp_path / "base", mlp_bias=True)
    stored = {
        name: tensor for name, tensor in load_file(base / "model.safetensors").items() if "down_proj.bias" in name
    }
    assert len(stored) == 3
    finetune(base, chats[0], tmp_path / "out", Recipe(method="bias", lr=1e-2, max_steps=2), device="cpu")
    change = load_file(tmp_path / "out" / "delta.safetensors")
    assert sorted(change) == sorted(stored)
    assert all(0 < tensor.abs().max() < 0.05 for tensor in change.values())


@pytest.mark.slow
def test_full_checkpoint_is_complete_and_diff_takes_it(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "full", "--method", "full", "--lr", "1e-3"]
    assert cli(*arguments, "--max-steps", 3, "-q").code == 0
    names = {path.name for path in tiny.iterdir()}
    assert names <= {path.name for path in (tmp_path / "full").iterdir()}
    assert (tmp_path / "full" / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    ran = cli("diff", tmp_path / "full", "--base", tiny, "-o", tmp_path / "tau.safetensors", "--json")
    assert ran.json["kind"] == "task_vector"
    assert ran.json["parameters"] == len(load_file(tiny / "model.safetensors"))


@pytest.mark.slow
def test_full_fine_tuning_keeps_a_tied_head_tied(tmp_path: Path, chats: tuple[Path, Path]) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    finetune(base, chats[0], tmp_path / "out", Recipe(method="full", lr=1e-3, max_steps=3), device="cpu")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, load_file(base / "model.safetensors")["model.embed_tokens.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_adapter_of_an_init_that_changes_the_base_is_a_plain_lora_of_the_base(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], init: str, rslora: bool
) -> None:
    recipe = Recipe(lr=RATE, max_steps=STEPS, rank=4, alpha=8, init=init, rslora=rslora, val_fraction=0)
    finetune(tiny, chats[0], tmp_path / "out", recipe, device="cpu", dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(tiny)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=init, use_rslora=rslora)
    set_seed(0)
    rows = rows_of(tiny, chats[0])
    trained = get_peft_model(model, config)
    expected = plain_loop(trained, rows, run_batches([len(row.tokens) for row in rows], 8, 1.0, STEPS, 0))
    assert trained_losses(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "out")
    ids = rows[0].tokens.long()[None]
    assert torch.allclose(loaded(input_ids=ids).logits, trained(input_ids=ids).logits, atol=1e-4)


@pytest.mark.slow
def test_options_of_lora_are_handed_to_peft(cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--max-steps", 2, "--rank", 4, "--alpha", 8, "-q"]
    options = ["--targets", "q_proj,v_proj", "--modules-to-save", "embed_tokens,lm_head", "--dora", "--rslora"]
    assert cli(*arguments, *options, "--dropout", 0.1, "--init", "gaussian").code == 0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"], config["lora_dropout"]) == (True, True, 0.1)
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert config["init_lora_weights"] == "gaussian"
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {"base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"} <= set(stored)
    assert cli("diff", tmp_path / "out", "--base", tiny, "-o", tmp_path / "tau.safetensors").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "eva"}, "--init eva"),
        ({"init": "pissa", "dora": True}, "--dora"),
        ({"targets": ("no_such_proj",)}, "no_such_proj"),
    ],
)
def test_what_lora_cannot_do_is_refused_and_writes_nothing(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], options: dict, message: str
) -> None:
    with pytest.raises(WsteerError, match=message):
        finetune(tiny, chats[0], tmp_path / "out", Recipe(max_steps=1, **options), device="cpu")
    assert list(tmp_path.glob("*out*")) == []


def test_sets_of_names_are_stored_in_order(tmp_path: Path, tiny: Path) -> None:
    """peft names a Mixtral's experts in a set of `target_parameters`, whose order depends on the process."""
    loaded, recipe = load(tiny, "cpu"), Recipe(rank=2)
    model = prepare(loaded, tiny, recipe)
    names = [f"name{i}" for i in range(30)]
    assert isinstance(model, PeftModel)
    model.peft_config["default"].target_parameters = set(names)
    state = copied_state(model)
    save(model, loaded, recipe, state, state, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_parameters"] == sorted(names)
    assert config["target_modules"] == sorted(config["target_modules"])
