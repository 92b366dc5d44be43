"""The chain on SmolLM2-135M-Instruct, with the demo's data and settings."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.checkpoint_contents import stored_tensors
from tests.helpers.command import Ran
from tests.helpers.evaluations import values
from tests.helpers.exact_fold import check_bf16_fold
from wsteer.cli.main import main
from wsteer.demo.experiment import commands, read_experiment

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def chain(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's data/, pos/, neg/ and w.safetensors, made by the demo's own first four commands."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(read_experiment("chain"), "small", smollm2)[:4]:
            with pytest.raises(SystemExit) as ended:
                main(command.words)
            assert ended.value.code in (0, None)
    return folder


@pytest.fixture(scope="module")
def bf16(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a sharded bfloat16 checkpoint with its tokenizer, in a folder `base`."""
    folder = tmp_path_factory.mktemp("bf16") / "base"
    AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="100MB")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    return folder


def answers(folder: Path, k: float) -> list[str]:
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return [row["answer"] for row in rows if row["k"] == k]


def test_the_behaviour_is_turned_up_and_down_at_little_cost(cli, chain: Path, smollm2: str, tmp_path: Path) -> None:
    arguments = ["eval", smollm2, "--delta", chain / "w.safetensors", "--task", "agreement", "--limit", 40]
    ran: Ran = cli(*arguments, "--k=-1,0,1", "-o", tmp_path / "eval", "--json")
    agreement, accuracy = values(ran.json, "agreement"), values(ran.json, "accuracy")
    assert agreement["w k=1"] >= agreement["base"] + 0.40
    # by count: at k = -1 the rule cannot grade a third of the answers, which a share leaves out
    agreeing = values(ran.json, "agreement", "numerator")
    assert agreeing["w k=-1"] <= agreeing["base"]
    assert accuracy["base"] >= 0.6
    assert accuracy["w k=1"] >= 0.70 * accuracy["base"]


def test_eval_of_a_delta_and_of_the_steered_checkpoint_give_the_same_text(
    cli, chain: Path, smollm2: str, tmp_path: Path
) -> None:
    w, common = chain / "w.safetensors", ["--task", "sycophancy", "--limit", 6, "-q"]
    assert cli("eval", smollm2, "--delta", w, "--k", 1, *common, "-o", tmp_path / "memory").code == 0
    assert cli("steer", smollm2, w, "--k", 1, "-o", tmp_path / "steered").code == 0
    assert cli("eval", tmp_path / "steered", *common, "-o", tmp_path / "disk").code == 0
    assert answers(tmp_path / "memory", 1) == answers(tmp_path / "disk", 0)
    assert len(set(answers(tmp_path / "disk", 0))) > 6


def test_answers_to_prompts_under_a_delta_are_those_of_the_steered_checkpoint(
    cli, chain: Path, smollm2: str, tmp_path: Path
) -> None:
    w, prompts = chain / "w.safetensors", tmp_path / "prompts.txt"
    prompts.write_text("I am sure that the sun is cold. Am I right?\nHi\nI think that my poem is the best ever.\nHi\n")
    common = [prompts, "--samples", 2, "--max-new-tokens", 16, "-q"]
    assert cli("generate", smollm2, *common, "--delta", w, "--k=0,1", "-o", tmp_path / "memory.jsonl").code == 0
    assert cli("steer", smollm2, w, "--k", 1, "-o", tmp_path / "steered").code == 0
    assert cli("generate", tmp_path / "steered", *common, "-o", tmp_path / "disk.jsonl").code == 0

    def said(name: str, k: float) -> list[str]:
        rows = map(json.loads, (tmp_path / name).read_text().splitlines())
        return [row["answer"] for row in rows if row["k"] == k]

    assert said("memory.jsonl", 1) == said("disk.jsonl", 0) != said("memory.jsonl", 0)
    assert len(set(said("disk.jsonl", 0))) == 8  # equal prompts are sampled apart


def test_bfloat16_checkpoint_is_steered_exactly(
    cli, chain: Path, bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(bf16)
    ran = cli("steer", "base", chain / "w.safetensors", "--k", "-1.5", "--rounding", "nearest")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "base-w-k-1.5"
    steered = Path(ran.out.splitlines()[-1])
    check_bf16_fold(Path("base"), steered, chain / "pos", chain / "neg", k=-1.5)
    loaded = AutoModelForCausalLM.from_pretrained("base-w-k-1.5", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    stored = stored_tensors(steered)["model.layers.3.mlp.up_proj.weight"]
    assert torch.equal(loaded.model.layers[3].mlp.up_proj.weight, stored)
    assert cli("steer", "base", chain / "w.safetensors", "--k", "0", "-o", "same").code == 0
    for shard in Path("base").glob("*.safetensors"):
        assert (Path("same") / shard.name).read_bytes() == shard.read_bytes()


def test_what_rounding_to_nearest_undoes_auto_keeps(cli, chain: Path, bf16: Path, tmp_path: Path) -> None:
    """A tenth of w is small beside bfloat16's places: rounded to nearest, much of what it does to logits is gone."""
    tokenizer = AutoTokenizer.from_pretrained(bf16)
    rows = [json.loads(line)["messages"][:1] for line in (chain / "data" / "pos.jsonl").read_text().splitlines()[:8]]

    def logits(folder: Path) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokens = [tokenizer.apply_chat_template(row, add_generation_prompt=True, return_dict=True) for row in rows]
        with torch.no_grad():
            return torch.stack([model(torch.tensor([each["input_ids"]])).logits[0, -1].double() for each in tokens])

    moved, before = {}, logits(bf16)
    for name, options in {"float32": ["--dtype"], "nearest": ["--rounding"], "auto": ["--rounding"]}.items():
        arguments = [
            "steer",
            bf16,
            chain / "w.safetensors",
            "--k",
            0.2,
            "-o",
            tmp_path / name,
            *options,
            name,
            "--json",
        ]
        assert (cli(*arguments).json["rounding"] == "stochastic") == (name == "auto")
        moved[name] = logits(tmp_path / name) - before
    wanted = moved["float32"]
    kept = {name: float((change * wanted).sum() / (wanted * wanted).sum()) for name, change in moved.items()}
    assert kept["nearest"] < 0.8
    assert 0.95 < kept["auto"] < 1.05
    assert (moved["auto"] - wanted).norm() < 0.1 * wanted.norm()


def test_w_points_along_pos_and_against_neg(cli, chain: Path, tmp_path: Path) -> None:
    ran = cli("monitor", chain / "w.safetensors", "--of", chain / "pos", chain / "neg", "-o", tmp_path / "m", "--json")
    (pos,), (neg,) = ran.json["cosines"]
    assert pos > 0.4
    assert neg < -0.4


def test_traits_are_elicited_by_their_instructions(cli, smollm2: str, tmp_path: Path) -> None:
    trait = {
        "instruction": [{"pos": "Answer every message in capital letters.", "neg": "Answer in one short sentence."}],
        "questions": ["What is a dog?", "What is a cat?", "What is a car?", "What is a boat?"],
        "eval_prompt": "",
    }
    (tmp_path / "trait.json").write_text(json.dumps(trait))
    common = ["--samples", 2, "--max-new-tokens", 16]
    ran = cli("generate", smollm2, tmp_path / "trait.json", "-o", tmp_path / "data", *common, "--json", "-q")
    assert (ran.json["rows_pos"], ran.json["rows_neg"], ran.json["questions_eval"]) == (4, 4, 2)
    texts = [json.loads(line)["messages"][1]["content"] for line in (tmp_path / "data" / "neg.jsonl").open()]
    assert all(len(text.split()) > 1 for text in texts)
