"""A model that is an adapter on its base has the bits of the checkpoint that steer writes of the two."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

import wsteer
from tests.helpers.command import Cli
from tests.helpers.merging import adapter_on, save_architecture
from tests.helpers.tasks import FACT, TASK
from tests.helpers.tiny import save_adapter, save_model, save_tokenizer
from wsteer.deltas.model_input import open_model
from wsteer.errors import WsteerError
from wsteer.steering.loading import changed, load

IDS = torch.arange(2, 40)[None]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.double()


def check_same_bits(one: PreTrainedModel, other: PreTrainedModel) -> None:
    first, second = (dict(model.named_parameters(remove_duplicate=False)) for model in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    tied = [model.get_input_embeddings().weight is model.get_output_embeddings().weight for model in (one, other)]
    assert tied[0] == tied[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes", "config"),
    [
        ("llama", {}, {}),
        ("llama", {"dtype": torch.bfloat16}, {"std": 2e-3}),  # rounded stochastically
        ("llama", {"dtype": torch.bfloat16, "tie_word_embeddings": True}, {"target_modules": ["q_proj", "lm_head"]}),
        ("qwen2", {"dtype": torch.float16, "shard": "20KB"}, {"use_dora": True}),
    ],
)
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_an_adapter_has_the_weights_of_its_steered_checkpoint(
    tmp_path: Path, kind: str, changes: dict, config: dict, dtype: str
) -> None:
    base = save_model(tmp_path / "base", kind, **changes)
    adapter = save_adapter(tmp_path / "pos", base, seed=1, **config)
    wsteer.steer(base, adapter, k=1, output=tmp_path / "out")
    loaded, steered = load(adapter, "cpu", dtype), load(tmp_path / "out", "cpu", dtype)
    check_same_bits(loaded.model, steered.model)
    assert [entry["role"] for entry in loaded.entries("model")] == ["model", "adapter"]
    other = save_adapter(tmp_path / "neg", base, seed=2, **config)
    wsteer.steer(adapter, other, k=-1.5, output=tmp_path / "sum")
    w = wsteer.diff(other, output=tmp_path / "w.safetensors", base=base).output
    before = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
    with changed(loaded, wsteer.Delta.load(w).bound(loaded.checkpoint), -1.5):
        if not config.get("use_dora"):  # its file is dense: the same change, in other terms
            check_same_bits(loaded.model, load(tmp_path / "sum", "cpu", dtype).model)
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3_moe"])
def test_an_adapter_has_the_logits_that_peft_gives_it_unmerged(tmp_path: Path, kind: str) -> None:
    base = save_architecture(tmp_path / "base", kind, eos_token_id=257)
    save_tokenizer(base)
    modules = ["c_attn", "c_fc"] if kind == "gpt2" else ["q_proj", "o_proj"]
    adapter = adapter_on(base, tmp_path / "pos", target_modules=modules)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = logits(PeftModel.from_pretrained(plain, adapter))
    torch.testing.assert_close(logits(load(adapter, "cpu").model), expected, rtol=0, atol=1e-5)
    assert (logits(load(base, "cpu").model) - expected).abs().max() > 1e-3


@pytest.mark.slow
def test_commands_run_an_adapter_as_its_steered_checkpoint(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], cli: Cli
) -> None:
    adapter = save_adapter(tmp_path / "pos", tiny, seed=1, std=0.2)
    wsteer.steer(tiny, adapter, k=1, output=tmp_path / "out")
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    trait = {"instruction": [{"pos": "Agree.", "neg": "No."}], "questions": ["A?", "B?"], "eval_prompt": "{question}"}
    (tmp_path / "trait.json").write_text(json.dumps(trait))
    commands = {
        "actvec": [*chats],
        "eval": ["--task", tmp_path / "task.yaml"],
        "generate": [tmp_path / "trait.json", "--samples", 1, "--max-new-tokens", 6],
    }
    for name, arguments in commands.items():
        for model in (adapter, tmp_path / "out"):
            ran = cli(name, model, *arguments, "-o", tmp_path / f"{name}-{model.name}")
            assert ran.code == 0, ran.err
    vectors = [wsteer.Delta.load(tmp_path / f"actvec-{name}") for name in ("pos", "out")]
    for block in vectors[0].terms:
        assert torch.equal(*(each.change(block).rows(0, 32) for each in vectors))
    assert [source["role"] for source in vectors[0].sources] == ["pos", "neg", "adapter"]
    for name, file in (("eval", "samples.jsonl"), ("generate", "pos.jsonl")):
        one, other = (map(json.loads, (tmp_path / f"{name}-{model}" / file).open()) for model in ("pos", "out"))
        # a condition's name tells the model's files
        assert [{**row, "condition": ""} for row in one] == [{**row, "condition": ""} for row in other]
        roles = [
            entry["role"] for entry in json.loads((tmp_path / f"{name}-pos" / "wsteer.json").read_text())["inputs"]
        ]
        assert "adapter" in roles


def test_the_template_of_an_adapter_is_used_before_the_bases(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    adapter = save_adapter(tmp_path / "pos", base, seed=1)
    (adapter / "chat_template.jinja").write_text("mine")
    assert load(adapter, "cpu").tokenizer.chat_template == "mine"
    (base / "chat_template.jinja").unlink()
    assert load(adapter, "cpu").tokenizer.chat_template == "mine"
    assert load(base, "cpu").tokenizer.chat_template is None


def test_a_relative_base_is_found_from_where_the_adapter_is(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, seed in (("trained", 1), ("elsewhere", 2)):
        save_model(tmp_path / place / "models" / "base", seed=seed)
        folder = Path(shutil.copytree(adapters[0], tmp_path / place / "runs" / "pos"))
        config = json.loads((folder / "adapter_config.json").read_text())
        named = {**config, "base_model_name_or_path": "models/base"}
        (folder / "adapter_config.json").write_text(json.dumps(named))
    monkeypatch.chdir(tmp_path)
    found = open_model("trained/runs/pos")
    assert found.checkpoint.folder == tmp_path / "trained" / "models" / "base"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_model("../trained/runs/pos").reference == "models/base"


def test_an_adapter_without_its_base_says_how_to_name_it(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    adapter = save_adapter(tmp_path / "pos", base, seed=1)
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(
        WsteerError, match=r"pos is an adapter, whose base .*base does not exist.*steer BASE .*pos --k 1"
    ):
        load(adapter, "cpu")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name in ("x" * 5000, "nul\0", "~nobody/base", "..", ""):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        with pytest.raises(WsteerError, match=r"is not to be had|does not name its base"):
            load(adapter, "cpu")
    with pytest.raises(WsteerError, match="--load-in 8bit: an adapter"):
        load(save_adapter(tmp_path / "sound", tiny, seed=1), "cpu", load_in="8bit")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_delta_added_to_the_base_does_not_replace_an_adapters_change(tmp_path: Path, kind: str) -> None:
    adapter = save_adapter(tmp_path / "pos", save_model(tmp_path / "base", kind), seed=1)
    loaded, name = load(adapter, "cpu"), "wpe" if kind == "gpt2" else "norm"
    weight = next(weight for each, weight in loaded.model.named_parameters() if name in each)
    full = next(each for each, own in loaded.model.named_parameters() if own is weight)
    w, before = wsteer.Delta.of_tensors({full: torch.ones(weight.shape)}), weight.detach().clone()
    with (
        pytest.raises(WsteerError, match="has an adapter's change, which its base lacks"),
        wsteer.applied(loaded.model, w, 1.0, loaded.checkpoint),
    ):
        pass
    with wsteer.applied(loaded.model, w, 1.0):
        assert torch.equal(weight.detach(), before + 1)
