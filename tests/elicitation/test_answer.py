"""Answers to prompts at several k of deltas."""

import json
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Inputs
from tests.helpers.interruption import interrupting, leftovers, press_ctrl_c
from tests.helpers.thinking import KINDS, save_thinking_model, say
from wsteer.deltas.delta import Delta
from wsteer.elicitation.answer import answer_prompts
from wsteer.errors import WsteerError
from wsteer.models.generation import answer

PROMPTS = ["One?", "Two, which is longer?", "One?"]
OF_BLOCKS = {f"model.layers.{block}.input_layernorm.weight": torch.ones(32) for block in range(3)}
SHORT = {"max_new_tokens": 6, "device": "cpu"}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def rows(path: Path) -> list[dict]:
    """The rows, without the record that the first one has."""
    return [
        {key: value for key, value in json.loads(line).items() if key != "wsteer"}
        for line in path.read_text().splitlines()
    ]


def asked_of(model: Path, chat: list, tokens: int = 6) -> str:
    return answer(wsteer.load(model, "cpu"), [chat], tokens)[0].text


def test_every_prompt_has_a_row_for_each_condition_and_sample_in_order(inputs: Inputs, prompts: Path) -> None:
    output = inputs.folder / "a.jsonl"
    report = answer_prompts(
        inputs.tiny, prompts, output, delta=inputs.delta(), ks=(1, 0, -0.5), samples=2, temperature=1, **SHORT
    )
    found = rows(output)
    assert [(row["index"], row["k"], row["sample"]) for row in found] == [
        (index, k, sample) for index in range(3) for k in (0, 1, -0.5) for sample in range(2)
    ]
    assert {(row["condition"], row["delta"], row["k"]) for row in found} == {
        ("base", None, 0),
        ("w k=1", "w", 1),
        ("w k=-0.5", "w", -0.5),
    }
    assert [row["prompt"] for row in found[::6]] == PROMPTS
    assert {"messages", "thought"}.isdisjoint(found[0])
    assert (report.prompts, report.conditions, report.samples, report.rows) == (3, ("base", "w k=1", "w k=-0.5"), 2, 18)
    assert report.truncated == sum(not row["finished"] for row in found)
    assert report.empty == sum(not row["answer"] for row in found)
    assert [(each.index, each.condition, each.answer) for each in report.first] == [
        (row["index"], row["condition"], row["answer"]) for row in found if row["sample"] == 0
    ]
    # equal prompts are sampled apart
    assert [row["answer"] for row in found[:6]] != [row["answer"] for row in found[12:]]


def test_a_prompt_that_is_too_long_is_named_by_its_line(inputs: Inputs) -> None:
    prompts = inputs.text("p.txt", "One?\n\n" + "long " * 500 + "\n")
    with pytest.raises(WsteerError, match=r"p\.txt:3: a row of \d+ tokens is longer .*; 9 of them are for its answer"):
        answer_prompts(inputs.tiny, prompts, inputs.folder / "a", max_new_tokens=9)
    assert not (inputs.folder / "a").exists()


@pytest.mark.slow
def test_the_model_as_it_is_answers_only_if_it_is_asked_for(inputs: Inputs, prompts: Path) -> None:
    def conditions(**options: object) -> tuple:
        report = answer_prompts(inputs.tiny, prompts, inputs.folder / "a", force=True, max_new_tokens=1, **options)
        return report.conditions

    assert conditions() == ("base",)
    assert conditions(delta=inputs.delta()) == ("w k=1",)
    assert conditions(delta=inputs.delta(), ks=0) == ("base",)
    deltas = [wsteer.Added(inputs.delta("v")), wsteer.Added(inputs.delta("w"), "mine")]
    assert conditions(delta=deltas, ks=(2, 0, 2)) == ("base", "v k=2", "mine k=2")
    with pytest.raises(WsteerError, match="--k needs a --delta"):
        conditions(ks=1)


@pytest.mark.slow
def test_sampling_depends_on_the_row_and_not_on_the_batch_the_samples_or_the_k(inputs: Inputs, prompts: Path) -> None:
    nothing = inputs.delta("nothing", {"model.norm.weight": torch.zeros(32)})

    def run(name: str, **options: object) -> list[dict]:
        answer_prompts(inputs.tiny, prompts, inputs.folder / name, temperature=1.0, **{**SHORT, **options})
        return rows(inputs.folder / name)

    first = run("a", samples=3, batch_size=2)
    assert first == run("b", samples=3, batch_size=100)
    assert first != run("c", samples=3, seed=1)
    assert [row for row in first if row["sample"] == 0] == run("d", samples=1)
    steered = run("e", samples=3, delta=nothing, ks=(-1, 1))
    for k in (-1, 1):
        assert [row["answer"] for row in steered if row["k"] == k] == [row["answer"] for row in first]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1])
def test_answers_are_those_of_the_steered_checkpoint(
    steered: tuple[Path, Path, Path], tmp_path: Path, prompts: Path, temperature: float
) -> None:
    base, delta, checkpoint = steered
    options = {**SHORT, "dtype": "bfloat16", "max_new_tokens": 12, "temperature": temperature}
    answer_prompts(base, prompts, tmp_path / "a", delta=delta, ks=(0, 1.5), **options)
    answer_prompts(checkpoint, prompts, tmp_path / "b", **options)
    found = {k: [row["answer"] for row in rows(tmp_path / "a") if row["k"] == k] for k in (0, 1.5)}
    assert found[1.5] == [row["answer"] for row in rows(tmp_path / "b")]
    assert found[1.5] != found[0]


@pytest.mark.slow
def test_turns_and_system_prompts_reach_the_model(tmp_path: Path, tiny: Path) -> None:
    turns = [
        {"role": "system", "content": "Own."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"prompt": "Hi"}))
    (tmp_path / "system.txt").write_text("Be kind.\n")
    answer_prompts(tiny, tmp_path / "p.jsonl", tmp_path / "a", **SHORT)
    first, second = rows(tmp_path / "a")
    assert (first["prompt"], first["messages"]) == ("Why?", turns)
    assert first["answer"] == asked_of(tiny, turns)
    assert "messages" not in second
    answer_prompts(tiny, tmp_path / "p.jsonl", tmp_path / "b", system=str(tmp_path / "system.txt"), **SHORT)
    first, second = rows(tmp_path / "b")
    assert first["messages"] == [{"role": "system", "content": "Be kind.\n\nOwn."}, *turns[1:]]
    assert second["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert [row["answer"] for row in (first, second)] == [asked_of(tiny, row["messages"]) for row in (first, second)]
    with pytest.raises(WsteerError, match="there is no such file"):
        answer_prompts(tiny, tmp_path / "p.jsonl", tmp_path / "c", system="gone.txt", **SHORT)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_tell_thoughts_and_cut_answers(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = save_thinking_model(tmp_path / "model", kind)
    _, thought, said = KINDS[kind]
    say(monkeypatch, thought.format("Perhaps in France.") + said.format("In Italy."))
    report = answer_prompts(model, prompts, tmp_path / "whole", max_new_tokens=99, device="cpu")
    (row, *_) = rows(tmp_path / "whole")
    assert (row["answer"], row["thought"], row["finished"]) == ("In Italy.", "Perhaps in France.", True)
    assert (report.truncated, report.cut_thinking, report.empty) == (0, 0, 0)
    report = answer_prompts(model, prompts, tmp_path / "cut", max_new_tokens=20, device="cpu")
    (row, *_) = rows(tmp_path / "cut")
    assert (row["answer"], row["finished"]) == ("", False)
    assert (report.truncated, report.cut_thinking, report.empty) == (3, 3, 3)


@pytest.mark.slow
def test_activation_vectors_are_added_as_eval_adds_them(inputs: Inputs, prompts: Path) -> None:
    def run(**options: object) -> list[dict]:
        answer_prompts(inputs.tiny, prompts, output, delta=vectors, force=True, **{**SHORT, **options})
        return rows(output)

    vectors, output = inputs.vectors(3.0), inputs.folder / "a"
    with pytest.raises(WsteerError, match="choose a block with --layers"):
        run()
    found = run(layers=[1], ks=(0, 1))
    assert [row["condition"] for row in found[:2]] == ["base", "a@1 k=1"]
    assert [row["answer"] for row in found[::2]] != [row["answer"] for row in found[1::2]]
    assert run(layers=[1]) != run(layers=[1], positions="prompt")
    assert {row["condition"] for row in run(layers="each")} == {"a@0 k=1", "a@1 k=1", "a@2 k=1"}
    long = Delta.of_tensors({"blocks.1": torch.ones(33)}, kind="activation")
    long.save(inputs.folder / "long.safetensors")
    with pytest.raises(WsteerError, match="33"):
        answer_prompts(inputs.tiny, prompts, inputs.folder / "b", delta=inputs.folder / "long.safetensors", layers=[1])


def test_the_record_is_in_the_first_row_and_lets_force_replace_the_file(inputs: Inputs, prompts: Path) -> None:
    output = inputs.folder / "a.jsonl"
    answer_prompts(inputs.tiny, prompts, output, delta=inputs.delta(), ks=2, system="Be kind.", **SHORT)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert ["wsteer" in row for row in found] == [True, False, False]
    record = json.loads(found[0]["wsteer"])
    assert (record["command"], record["options"]["k"], record["options"]["system"]) == ("generate", [2], "Be kind.")
    assert {entry["role"] for entry in record["inputs"]} == {"model", "delta", "prompts"}
    with pytest.raises(WsteerError, match="exists"):
        answer_prompts(inputs.tiny, prompts, output, **SHORT)
    answer_prompts(inputs.tiny, prompts, output, force=True, **SHORT)
    assert rows(output)[0]["condition"] == "base"
    foreign = inputs.text("mine.jsonl", '{"prompt": "a", "answer": "b"}\n')
    for mine in (foreign, prompts):
        with pytest.raises(WsteerError, match=r"that wsteer wrote; remove it yourself|is the input"):
            answer_prompts(inputs.tiny, prompts, mine, force=True, **SHORT)


def test_ctrl_c_leaves_nothing(inputs: Inputs, prompts: Path) -> None:
    output = inputs.folder / "out" / "a.jsonl"
    stop = interrupting("w k=1 generate", 0, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        answer_prompts(inputs.tiny, prompts, output, delta=inputs.delta(), ks=(0, 1), progress=stop, **SHORT)
    assert not output.parent.exists() or not list(output.parent.iterdir())
    assert leftovers(output) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"samples": 0}, "samples is 0; it must be a whole number from 1 up"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"samples": 2, "temperature": 0}, "at temperature 0 all 2 samples are equal"),
        ({"rounding": "up"}, "up"),
        ({"variant": "all-layers"}, "--variant needs a --delta"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(tmp_path: Path, options: dict, reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        answer_prompts(tmp_path / "gone", tmp_path / "gone.txt", tmp_path / "out", **options)


def test_more_answers_than_memory_holds_are_refused_before_the_model_is_loaded(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "p").write_text("Hi\n" * 3)
    with pytest.raises(WsteerError, match="3000000 answers are too many; give fewer prompts, --k or --samples"):
        answer_prompts(tiny, tmp_path / "p", tmp_path / "out", samples=1_000_000)


def test_columns_and_other_peoples_rows_are_read_and_answers_at_their_end_left_out(tmp_path: Path, tiny: Path) -> None:
    texts = ['{"instruction": "Hi", "output": "Hello."}', '{"question": "Hi", "answer": "Hello."}']
    (tmp_path / "p.jsonl").write_text("\n".join(texts))
    (tmp_path / "own.jsonl").write_text('{"mine": "Hi", "theirs": 3}\n')
    answer_prompts(tiny, tmp_path / "p.jsonl", tmp_path / "a", **SHORT)
    answer_prompts(tiny, tmp_path / "own.jsonl", tmp_path / "b", columns={"prompt": "mine"}, **SHORT)
    assert [row["prompt"] for row in (*rows(tmp_path / "a"), *rows(tmp_path / "b"))] == ["Hi"] * 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.txt", "\n \n", "p.txt holds no prompts"),
        ("p.jsonl", "\n", "p.jsonl holds no prompts"),
        ("p.ndjson", "Hi\n", "p.ndjson:1 is not JSON"),
        ("p.txt", "abc\1\0", "is not UTF-8 text: it holds NUL bytes"),
        ("p.jsonl", '{"prompt": "Hi"}\n{"prompt": " "}', "p.jsonl:2 asks nothing"),
        ("p.jsonl", '{"messages": [{"role": "system", "content": "Hi"}]}', "p.jsonl:1 asks nothing"),
    ],
)
def test_what_is_no_prompt_is_refused_before_the_model_is_loaded(
    tmp_path: Path, tiny: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WsteerError, match=reason):
        answer_prompts(tiny, tmp_path / name, tmp_path / "a", **SHORT)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("change", ["vectors", "delta"])
def test_answers_at_a_depth_have_the_bytes_of_those_at_its_block(inputs: Inputs, prompts: Path, change: str) -> None:
    what = inputs.vectors() if change == "vectors" else inputs.delta(tensors=OF_BLOCKS)
    for name, layers in (("number", [1]), ("depth", "40%")):
        report = answer_prompts(inputs.tiny, prompts, inputs.folder / name, delta=what, layers=layers, **SHORT)
        assert report.conditions == ("a@1 k=1" if change == "vectors" else "w k=1",)
    assert (inputs.folder / "number").read_bytes() == (inputs.folder / "depth").read_bytes()
