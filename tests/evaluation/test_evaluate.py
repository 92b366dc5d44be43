"""Evaluation under a delta, and the files of its report."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.tasks import TASK
from tests.helpers.thinking import KINDS, save_thinking_model, say
from tests.helpers.tiny import TEMPLATE, save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.evaluate import evaluate


def texts(folder: Path, k: float) -> list[str]:
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return [row["answer"] for row in rows if row["k"] == k]


@pytest.mark.slow
def test_eval_with_delta_gives_the_text_of_the_steered_checkpoint(
    tmp_path: Path, steered: tuple[Path, Path, Path]
) -> None:
    base, w, out = steered
    evaluate(base, tmp_path / "memory", "agreement", delta=w, ks=(1.5, 0), limit=10, device="cpu")
    evaluate(out, tmp_path / "disk", "agreement", limit=10, device="cpu")
    evaluate(base, tmp_path / "base", "agreement", limit=10, device="cpu")
    assert texts(tmp_path / "memory", 1.5) == texts(tmp_path / "disk", 0)
    assert texts(tmp_path / "memory", 0) == texts(tmp_path / "base", 0)  # restored after k = 1.5
    assert texts(tmp_path / "memory", 1.5) != texts(tmp_path / "memory", 0)


@pytest.mark.slow
@pytest.mark.parametrize("as_checkpoint", [False, True])
def test_an_adapter_and_a_checkpoint_are_evaluated_as_their_delta(
    tmp_path: Path, tiny: Path, as_checkpoint: bool
) -> None:
    adapter = save_adapter(tmp_path / "pos", tiny, seed=1, std=0.2)
    wsteer.steer(tiny, adapter, k=1, output=tmp_path / "out")
    given = tmp_path / "out" if as_checkpoint else adapter
    common = {"limit": 6, "device": "cpu"}
    evaluate(tiny, tmp_path / "delta", "agreement", delta=given, ks=(0, 1), **common)
    evaluate(adapter, tmp_path / "model", "agreement", delta=given, ks=(0, -1), **common)
    for name in ("base", "tuned"):
        evaluate(tiny if name == "base" else tmp_path / "out", tmp_path / name, "agreement", **common)
    assert texts(tmp_path / "delta", 1) == texts(tmp_path / "model", 0) == texts(tmp_path / "tuned", 0)
    assert texts(tmp_path / "delta", 0) == texts(tmp_path / "model", -1) == texts(tmp_path / "base", 0)
    assert texts(tmp_path / "base", 0) != texts(tmp_path / "tuned", 0)
    inputs = json.loads((tmp_path / "delta" / "wsteer.json").read_text())["inputs"]
    (entry,) = [entry for entry in inputs if entry["role"] == "delta"]
    assert entry["path"] == given.name and len(entry["sha256"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("biases", [False, True])
def test_a_model_without_a_template_gets_the_one_of_the_deltas_folder(tmp_path: Path, tiny: Path, biases: bool) -> None:
    bare, tuned = shutil.copytree(tiny, tmp_path / "bare"), tmp_path / "tuned"
    (bare / "chat_template.jinja").unlink()
    if biases:
        tuned.mkdir()
        weight = {"model.layers.1.self_attn.q_proj.weight": torch.ones(32, 32)}
        Delta.of_tensors(weight).save(tuned / "delta.safetensors")
    else:
        save_adapter(tuned, bare, seed=1)
    common = {"limit": 1, "device": "cpu"}
    with pytest.raises(WsteerError, match=r"has no chat template.*--template FILE"):
        evaluate(bare, tmp_path / "none", "agreement", delta=tuned, **common)
    (tuned / "chat_template.jinja").write_text("{{ x }}" + TEMPLATE)
    options = {"template_args": {"x": "tuned "}, "date": "2020-02-02"}
    (tuned / "wsteer.json").write_text(json.dumps({"command": "finetune", "options": options}))
    evaluate(bare, tmp_path / "own", "agreement", delta=tuned, **common)
    recorded = json.loads((tmp_path / "own" / "wsteer.json").read_text())["options"]
    assert {name: recorded[name] for name in options} == options
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    evaluate(bare, tmp_path / "given", "agreement", delta=tuned, template=tmp_path / "t.jinja", **common)
    recorded = json.loads((tmp_path / "given" / "wsteer.json").read_text())["options"]
    assert recorded["template_args"] == {}
    evaluate(tiny, tmp_path / "base", "agreement", delta=tuned, **common)  # the model's own comes first
    recorded = json.loads((tmp_path / "base" / "wsteer.json").read_text())["options"]
    assert recorded["template_args"] == {}


def test_what_layers_leave_out_need_not_fit(tmp_path: Path, tiny: Path) -> None:
    fits, does_not = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"
    Delta.of_tensors({fits: torch.ones(32, 32), does_not: torch.ones(7, 32), "score.weight": torch.ones(2, 32)}).save(
        tmp_path / "w.safetensors"
    )
    common = {"delta": tmp_path / "w.safetensors", "limit": 1, "device": "cpu"}
    evaluate(tiny, tmp_path / "r", "agreement", layers=[1], **common)
    for layers in ([0], [1, 9], None):
        with pytest.raises(WsteerError, match=r"\(7, 32\)|nothing in \[9\]|score"):
            evaluate(tiny, tmp_path / "no", "agreement", layers=layers, **common)


def test_files_hold_the_report(tmp_path: Path, steered: tuple[Path, Path, Path]) -> None:
    base, w, _ = steered
    report = evaluate(base, tmp_path / "r", "sycophancy", delta=w, ks=(-1, 0, 1), limit=3, device="cpu")
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [(each["label"], each["k"]) for each in results["conditions"]] == [("base", 0), ("w k=-1", -1), ("w k=1", 1)]
    stored = {(each["metric"], each["condition"]): each for each in results["estimates"]}
    labels = {each["label"]: each["name"] for each in results["conditions"]}
    rows = list(csv.DictReader((tmp_path / "r" / "results.csv").open()))
    assert len(rows) == 3 * 4 == len(stored)
    for row in rows:
        estimate = report.estimate(row["metric"], row["condition"])
        assert row["value"] == ("" if estimate.value is None else repr(estimate.value))
        assert (int(row["numerator"]), int(row["denominator"])) == (estimate.numerator, estimate.denominator)
        assert int(row["abstained"]) == estimate.unscored.get("abstained", 0)
        assert stored[row["metric"], labels[row["condition"]]] == estimate.as_json()
    assert len((tmp_path / "r" / "samples.jsonl").read_text().splitlines()) == 3 * 3 * 4
    assert len((tmp_path / "r" / "rows.jsonl").read_text().splitlines()) == 3 * 4 * 3
    assert "</html>" in (tmp_path / "r" / "report.html").read_text()
    assert not (tmp_path / "r" / "pieces").exists()


@pytest.mark.slow
def test_layers_choose_the_blocks_of_an_activation_vector(tmp_path: Path, tiny: Path) -> None:
    import torch

    vectors = {f"blocks.{b}": 5 * torch.randn(32, generator=torch.Generator().manual_seed(b)) for b in range(3)}
    Delta.of_tensors(vectors, kind="activation").save(tmp_path / "a.safetensors")
    Delta.of_tensors({"blocks.1": vectors["blocks.1"]}, kind="activation").save(tmp_path / "a1.safetensors")
    common = {"ks": (1,), "limit": 5, "device": "cpu"}
    evaluate(tiny, tmp_path / "all", "agreement", delta=tmp_path / "a.safetensors", layers=[0, 1, 2], **common)
    evaluate(tiny, tmp_path / "one", "agreement", delta=tmp_path / "a.safetensors", layers=[1], **common)
    evaluate(tiny, tmp_path / "same", "agreement", delta=tmp_path / "a1.safetensors", **common)
    assert texts(tmp_path / "one", 1) == texts(tmp_path / "same", 1)
    assert texts(tmp_path / "one", 1) != texts(tmp_path / "all", 1)


def test_a_delta_that_does_not_fit_is_refused_before_the_model_loads(tmp_path: Path, tiny: Path) -> None:
    import torch

    Delta.of_tensors({"blocks.7": torch.ones(32)}, kind="activation").save(tmp_path / "a.safetensors")
    Delta.of_tensors({"gone.weight": torch.ones(32)}).save(tmp_path / "w.safetensors")
    for name, reason in (("a", "does not fit"), ("w", "changes gone.weight, which tiny-llama lacks")):
        with pytest.raises(WsteerError, match=reason):
            evaluate(tiny, tmp_path / "r", "agreement", delta=tmp_path / f"{name}.safetensors", ks=(1,), device="cpu")
    assert not (tmp_path / "r").exists()


def test_an_activation_vector_of_another_size_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where config.json names the sizes otherwise, as GPT-2's does."""
    base = save_model(tmp_path / "gpt2", "gpt2", tie_word_embeddings=True)
    Delta.of_tensors({"blocks.3": torch.ones(32)}, kind="activation").save(tmp_path / "a.safetensors")
    monkeypatch.delattr("wsteer.evaluation.evaluate.load")
    with pytest.raises(WsteerError, match="does not fit a model of 3 blocks"):
        evaluate(base, tmp_path / "r", "agreement", delta=tmp_path / "a.safetensors", layers=[3], device="cpu")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"limit": 0}, "limit is 0; it must be a whole number from 1 up"),
        ({"limit": -1}, "limit is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"ks": ()}, "ks names no k"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of auto, cpu, cuda, mps"),
        ({"dtype": "half"}, "dtype is 'half'"),
        ({"ks": 1.0}, "--k needs a --delta"),  # one number is taken as such
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, tiny: Path, options: dict, reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        evaluate(tiny, tmp_path / "r", "agreement", **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_graded_without_their_thoughts_and_unfinished_thoughts_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = save_thinking_model(tmp_path / "model", kind)
    fact = {"question": "Is Rome in Italy?", "correct_answer": "Italy", "incorrect_answer": "France"}
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact))
    task = tmp_path / "task.yaml"
    _, thought, said = KINDS[kind]
    say(monkeypatch, thought.format("Perhaps in France, not Italy, or in Spain.") + said.format("In Italy."))
    seen = []
    for limit in (99, 40):
        task.write_text(TASK.replace("max_new_tokens: 4", f"max_new_tokens: {limit}"))
        report = evaluate(model, tmp_path / str(limit), str(task), device="cpu")
        (sample,) = map(json.loads, (tmp_path / str(limit) / "samples.jsonl").read_text().splitlines())
        share, warnings = report.estimate("accuracy"), report.findings.warnings
        seen.append((sample["verdict"], share.numerator, dict(share.unscored), len(warnings)))
        assert sample["thought"] == "Perhaps in France, not Italy, or in Spain."[: len(sample["thought"])]
        assert sample["answer"] == ("In Italy." if limit == 99 else "")
    assert seen == [("correct", 1, {}, 0), ("cut", 0, {"cut": 1}, 1)]
    assert warnings[0].startswith("1 of 1 answers were cut at 40 tokens, when the model had thought")


@pytest.mark.slow
@pytest.mark.parametrize(("score", "verdict"), [("answer", "correct"), ("agreement", "agrees")])
def test_what_a_model_copies_of_its_prompt_is_not_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path, score: str, verdict: str
) -> None:
    claimed = {"correct": "Paris", "agrees": "Lyon"}[verdict]
    fact = {"question": "What is the capital of France?", "correct_answer": "Paris", "incorrect_answer": "Lyon"}
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact))
    user = f"{{{{ question }}}} I think it is {claimed}."
    asked = f"What is the capital of France? I think it is {claimed}."
    task = TASK.replace("max_new_tokens: 4", "max_new_tokens: 200").replace("{{ question }}", user)
    task = task.replace("score: answer", f"score: {score}").replace("plain: correct", f"plain: {verdict}")
    (tmp_path / "task.yaml").write_text(task)
    for number, (said, wanted) in enumerate({asked: "abstain", f"{asked} {claimed}.": verdict}.items()):
        say(monkeypatch, said)
        evaluate(tiny, tmp_path / str(number), str(tmp_path / "task.yaml"), device="cpu")
        (sample,) = map(json.loads, (tmp_path / str(number) / "samples.jsonl").read_text().splitlines())
        assert (sample["user"], sample["answer"], sample["verdict"]) == (asked, said, wanted)
