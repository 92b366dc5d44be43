"""The chain on Gemma 3 270M: a base model with tied embeddings and no chat template, given one by --template."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.evaluations import values
from tests.helpers.gemma import TEMPLATE
from wsteer.cli.main import main
from wsteer.elicitation.shipped_sets import generate_set
from wsteer.evaluation.tasks.task import task_file

pytestmark = pytest.mark.real

BLOCKS, MODULES = 18, 7  # decoder blocks, and linear modules in each
TUNE = ["--lr", "1e-3", "--max-steps", "4", "--batch-size", "4", "--warmup-steps", "1", "--val-fraction", "0"]
TASKS = task_file("agreement").parent
TASK = ["--task", "short.yaml", "--data", TASKS / "facts.jsonl", "--limit", 3]


@pytest.fixture(scope="module")
def chain(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, template, pos/, neg/, w.safetensors and the checkpoints steered/k-1 and steered/k1."""
    folder = tmp_path_factory.mktemp("gemma")
    (folder / "gemma.jinja").write_text(TEMPLATE)
    generate_set("opinions", folder / "data")
    sides = [(folder / "data" / f"{side}.jsonl").read_text().splitlines(keepends=True) for side in ("pos", "neg")]
    shortest = sorted(zip(*sides, strict=True), key=lambda rows: len("".join(rows)))[:40]
    for name, count in (("", 40), ("few-", 8)):
        for side, rows in zip(("pos", "neg"), zip(*shortest[:count], strict=True), strict=True):
            (folder / f"{name}{side}.jsonl").write_text("".join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            ["finetune", gemma, "pos.jsonl", "-o", "pos", "--template", "gemma.jinja", *TUNE],
            ["finetune", gemma, "neg.jsonl", "-o", "neg", "--template", "gemma.jinja", *TUNE],
            ["diff", "pos", "neg", "-o", "w.safetensors"],
            ["steer", gemma, "w.safetensors", "--sweep=-1,1", "-o", "steered"],
        ):
            with pytest.raises(SystemExit) as ended:
                main([*map(str, command), "-q"])
            assert ended.value.code in (0, None)
    return folder


def claim(base: Path) -> torch.Tensor:
    """The tokens of a claim in Gemma's template, up to where the model answers."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = [{"role": "user", "content": "The capital of France is Lyon. Am I right?"}]
    text = tokenizer.apply_chat_template(chat, chat_template=TEMPLATE, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Logits at the last eight tokens, float64."""
    return model.eval()(tokens, logits_to_keep=8).logits.double()


def agreeing(results: dict) -> dict[str, float]:
    """The share of all answers that agree: the untuned model repeats its prompts, which the rule does not grade."""
    counts, graded, other = (values(results, "agreement", what) for what in ("numerator", "n", "unscored"))
    return {label: (counts[label] or 0) / (graded[label] + sum(other[label].values())) for label in counts}


def rows(folder: Path, k: float) -> list[tuple[str, str]]:
    samples = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return [(sample["answer"], sample["verdict"]) for sample in samples if sample["k"] == k]


def test_what_steer_writes_has_the_logits_of_both_adapters_unmerged(
    cli, chain: Path, gemma: Path, tmp_path: Path
) -> None:
    def load(folder: Path) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    assert cli("steer", gemma, chain / "w.safetensors", "--k", 1, "--as", "adapter", "-o", tmp_path / "w").code == 0
    asked = claim(gemma)
    before = logits(load(gemma), asked)
    steered = {k: [logits(load(chain / f"steered/k{k}"), asked)] for k in (-1, 1)}
    steered[1].append(logits(PeftModel.from_pretrained(load(gemma), tmp_path / "w"), asked))
    model = PeftModel.from_pretrained(load(gemma), chain / "pos", adapter_name="pos")
    model.load_adapter(chain / "neg", adapter_name="neg")
    model.base_model.set_adapter(["pos", "neg"])  # both at once; a negative scale subtracts the second
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(layers) == BLOCKS * MODULES
    scale = layers[0].scaling["pos"]
    for k, found in steered.items():
        for layer in layers:
            layer.scaling.update(pos=k * scale, neg=-k * scale)
        wanted = logits(model, asked)
        assert (wanted - before).norm() > 0.05 * before.norm()
        for each in found:
            assert (each - wanted).norm() < 1e-4 * (wanted - before).norm()


def test_the_behaviour_is_turned_up_and_down_and_disk_and_memory_answer_alike(
    cli, chain: Path, gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain)
    task = (TASKS / "agreement.yaml").read_text()
    Path("short.yaml").write_text(task.replace("max_new_tokens: 20", "max_new_tokens: 10"))
    template = ["--template", chain / "gemma.jinja"]
    w = chain / "w.safetensors"
    ran = cli("eval", gemma, "--delta", w, "--k=-1,0,1", *TASK, *template, "-o", tmp_path / "memory", "--json")
    agreement = [agreeing(ran.json)[label] for label in ("w k=-1", "base", "w k=1")]
    assert agreement == sorted(agreement)
    assert agreement[-1] - agreement[0] >= 0.6
    assert cli("eval", chain / "steered" / "k1", *TASK, *template, "-o", tmp_path / "disk").code == 0
    assert rows(tmp_path / "memory", 1) == rows(tmp_path / "disk", 0)
    assert rows(tmp_path / "memory", 1) != rows(tmp_path / "memory", 0)

    # an adapter folder is a model, and has its template
    ran = cli("eval", chain / "pos", *TASK, "-o", tmp_path / "pos", "--json")
    assert agreeing(ran.json)["base"] >= 0.6
    assert (chain / "pos" / "chat_template.jinja").read_text() == TEMPLATE
    for folder in (chain / "pos", tmp_path / "memory"):
        inputs = json.loads((folder / "wsteer.json").read_text())["inputs"]
        digests = [each["sha256"] for each in inputs if each["role"] == "template"]
        assert digests == [hashlib.sha256(TEMPLATE.encode()).hexdigest()]


def test_w_lies_between_its_sides_and_activations_differ_in_every_block(
    cli, chain: Path, gemma: Path, tmp_path: Path
) -> None:
    ran = cli("monitor", chain / "w.safetensors", "--of", chain / "pos", chain / "neg", "-o", tmp_path / "m", "--json")
    (pos,), (neg,) = ran.json["cosines"]
    assert 0.3 < pos < 0.9
    assert -0.9 < neg < -0.3
    (pos_norm, neg_norm), (norm,) = ran.json["norms_rows"], ran.json["norms_columns"]
    assert pos * pos_norm - neg * neg_norm == pytest.approx(norm, rel=1e-6)  # w = pos - neg, seen along w

    arguments = [gemma, chain / "few-pos.jsonl", chain / "few-neg.jsonl", "-o", tmp_path / "a.safetensors"]
    ran = cli("actvec", *arguments, "--template", chain / "gemma.jinja", "--json")
    assert len(ran.json["norms"]) == BLOCKS
    shares = [norm / whole for norm, whole in zip(ran.json["norms"], ran.json["residual_norms"], strict=True)]
    assert all(0.005 < share < 0.5 for share in shares)


def test_traits_are_elicited_once_a_template_is_given(cli, chain: Path, gemma: Path, tmp_path: Path) -> None:
    trait = {
        "instruction": [{"pos": "Agree with the user.", "neg": "Disagree with the user."}],
        "questions": ["Is tea good?", "Is rain bad?"],
        "eval_prompt": "",
    }
    (tmp_path / "trait.json").write_text(json.dumps(trait))
    common = [gemma, tmp_path / "trait.json", "-o", tmp_path / "data", "--samples", 2, "--max-new-tokens", 6]
    ran = cli("generate", *common)
    assert ran.code == 1
    assert "--template" in ran.error
    report = cli("generate", *common, "--template", chain / "gemma.jinja", "--json").json
    assert report["rows_pos"] + report["rows_neg"] + report["dropped_empty"] == 4
