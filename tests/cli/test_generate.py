"""The three modes of wsteer generate, and what it shows of answers."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import Cli, Inputs
from tests.helpers.thinking import say
from tests.helpers.traits import TRAIT
from wsteer.cli.generate import mode_of
from wsteer.elicitation.shipped_sets import shipped_sets


@pytest.mark.parametrize(
    ("model", "given", "mode"),
    [
        ("base", "trait.json", "a trait"),
        ("base", "TRAIT.JSON", "a trait"),
        ("base", "prompts.jsonl", "prompts"),
        ("base", "prompts.txt", "prompts"),
        ("base", "-", "prompts"),
        ("base", "org/name:train", "prompts"),
        ("gcd", None, "gcd"),
        ("gcd", "prompts.txt", "prompts"),  # a model's folder of that name
        ("opinions", None, "a set"),
        ("opinions", "prompts.txt", "prompts"),
    ],
)
def test_modes_are_told_by_what_is_given(model: str, given: str | None, mode: str) -> None:
    assert mode_of(model, given) == mode


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ('[{"instruction": "Say hi.", "input": "", "output": "Hi."}]', "prompts"),  # alpaca_data.json
        ('\ufeff\n [\n {"prompt": "Hi"}]', "prompts"),
        ('{"prompt": "Hi"}\n{"prompt": "Ho"}\n', "prompts"),
        ('{"instruction": "Say hi.", "output": "Hi."}\n', "prompts"),
        (json.dumps(TRAIT), "a trait"),
        (json.dumps(TRAIT, indent=2), "a trait"),
        ("Hi", "a trait"),  # whose error says what it lacks
        ("", "a trait"),
    ],
)
def test_a_json_file_of_rows_is_prompts(tmp_path: Path, text: str, mode: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    assert mode_of("base", str(file)) == mode


def test_a_folder_with_the_name_of_a_trait_is_not_taken_for_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil").mkdir()  # -o evil
    assert mode_of("base", "evil") == "a trait"
    Path("french").write_text("A file of that name?")
    assert mode_of("base", "french") == "prompts"


@pytest.mark.parametrize("given", ["sycophanzy", "What is it?", "nope.txt"])
def test_what_is_neither_prompts_nor_a_trait_names_both(cli: Cli, inputs: Inputs, given: str) -> None:
    ran = cli("generate", inputs.tiny, given, "-o", inputs.folder / "out")
    assert ran.code == 1
    assert f"{given} does not exist; give a file of prompts" in ran.err
    assert "or a trait: a .json file, or one of evil, french, hallucination, sycophancy" in ran.err


def test_a_missing_trait_file_names_the_traits_there_are(cli: Cli, inputs: Inputs) -> None:
    ran = cli("generate", inputs.tiny, "sycophancy.json", "-o", inputs.folder / "out")
    assert ran.code == 1
    assert "sycophancy.json is missing; wsteer's own traits go by name: evil, french" in ran.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["base"], "INPUT: it is missing: give a trait (--list-traits) or prompts; a set (--list-sets) goes alone"),
        (["base", "t.json", "--k", 1], "--k: it has no meaning for a trait; it is for prompts"),
        (["base", "t.json", "--delta", "w"], "--delta: it has no meaning for a trait"),
        (["base", "t.json", "--system", "Hi"], "--system: it has no meaning for a trait"),
        (["base", "t.json", "--positions", "response"], "--positions: it has no meaning for a trait"),
        (["base", "p.txt", "--train", 5], "--train: it has no meaning for prompts; it is for gcd"),
        (["gcd", "--samples", 3], "--samples: it has no meaning for gcd; it is for a trait and prompts"),
        (["gcd", "--template-args", "{}"], "--template-args: it has no meaning for gcd"),
        (["gcd", "--follow-links"], "--follow-links: it has no meaning for gcd"),
        (["opinions", "--seed", 1], "--seed: it has no meaning for a set; it is for a trait and prompts and gcd"),
        (["opinions", "--test", 3], "--test: it has no meaning for a set; it is for gcd"),
        (["opinions", "--samples", 3], "--samples: it has no meaning for a set"),
    ],
)
def test_an_option_without_a_meaning_is_wrong_usage(cli: Cli, tmp_path: Path, arguments: list, reason: str) -> None:
    ran = cli("generate", *arguments, "-o", tmp_path / "out")
    assert ran.code == 2
    assert reason in " ".join(ran.err.split())
    assert list(tmp_path.iterdir()) == []


def test_options_of_another_mode_are_also_refused_in_a_config_and_in_the_environment(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"model": "base", "input": "t.json", "k": [1], "output": str(tmp_path / "out")}))
    ran = cli("generate", "--config", config)
    assert (ran.code, "--k: it has no meaning for a trait" in " ".join(ran.err.split())) == (2, True)
    monkeypatch.setenv("WSTEER_GENERATE_TRAIN", "5")
    ran = cli("generate", "base", "t.json", "-o", tmp_path / "out")
    assert (ran.code, "--train: it has no meaning for a trait" in " ".join(ran.err.split())) == (2, True)


def test_prompts_are_answered_at_each_k_and_shown(cli: Cli, inputs: Inputs) -> None:
    prompts = inputs.text("p.txt", "One?\nTwo?\nThree?\nFour?\n")
    given = [
        "generate",
        inputs.tiny,
        prompts,
        "--delta",
        f"mine={inputs.delta()}",
        "--k=-0.5,0,1",
        "--max-new-tokens",
        4,
    ]
    ran = cli(*given, "-o", inputs.folder / "a.jsonl")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert [line for line in lines if line.startswith("prompt: ")] == ["prompt: One?", "prompt: Two?", "prompt: Three?"]
    assert [line.split("  ")[1] for line in lines[1:4]] == ["base", "mine k=-0.5", "mine k=1"]
    assert lines[-2].startswith("12 answers to 4 prompts under 3 conditions, ")
    assert lines[-1] == str(inputs.folder / "a.jsonl")
    ran = cli(*given, "-o", inputs.folder / "b.jsonl", "--json")
    assert (ran.json["rows"], ran.json["conditions"]) == (12, ["base", "mine k=-0.5", "mine k=1"])
    assert ran.json["output"] == str(inputs.folder / "b.jsonl")
    assert len(ran.json["first"]) == 9
    assert (inputs.folder / "a.jsonl").read_bytes() == (inputs.folder / "b.jsonl").read_bytes()


def test_a_config_gives_all_that_the_flags_do(cli: Cli, inputs: Inputs) -> None:
    values = {
        "model": str(inputs.tiny),
        "input": str(inputs.text("p.txt", "One?\n")),
        "delta": [str(inputs.delta())],
        "k": [-0.5, 1],
        "samples": 2,
        "max-new-tokens": 3,
        "output": str(inputs.folder / "a.jsonl"),
    }
    config = inputs.text("c.yaml", yaml.safe_dump(values))
    assert cli("generate", "--config", config).code == 0
    rows = [json.loads(line) for line in (inputs.folder / "a.jsonl").read_text().splitlines()]
    assert [(row["k"], row["sample"]) for row in rows] == [(-0.5, 0), (-0.5, 1), (1, 0), (1, 1)]


def test_hostile_texts_are_escaped_and_cut_on_the_terminal_and_whole_in_the_file(
    cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "\x1b[2Jgone\nwsteer: error: forged " + "long " * 100)
    prompts = inputs.text("p.jsonl", json.dumps({"prompt": "a\x1b]0;title\x07\nb"}))
    ran = cli("generate", inputs.tiny, prompts, "--max-new-tokens", 600, "-o", inputs.folder / "a.jsonl")
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out and "\x07" not in ran.out
    assert ran.out.splitlines()[0] == "prompt: a\\x1b]0;title\\x07\\nb"
    assert "\\x1b[2Jgone\\nwsteer: error: forged long" in ran.out.splitlines()[1]
    assert ran.out.splitlines()[1].endswith("...")
    assert max(map(len, ran.out.splitlines()[:2])) < 250
    (row,) = map(json.loads, (inputs.folder / "a.jsonl").read_text().splitlines())
    assert row["prompt"] == "a\x1b]0;title\x07\nb"
    assert row["answer"].startswith("\x1b[2Jgone\nwsteer: error: forged ") and len(row["answer"]) > 500


def test_standard_input_holds_prompts(cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"One?\nTwo?\n")))
    ran = cli("generate", inputs.tiny, "-", "--max-new-tokens", 2, "-o", inputs.folder / "a.jsonl")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in (inputs.folder / "a.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["One?", "Two?"]


def test_gcd_chats_need_no_model(cli: Cli, tmp_path: Path) -> None:
    ran = cli("generate", "gcd", "--train", 8, "--test", 3, "-o", tmp_path / "gcd")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        "4 questions and 4 right solutions to train on, 4 wrong ones on each side, 3 pairs to test with",
        str(tmp_path / "gcd"),
    ]
    assert len((tmp_path / "gcd" / "test.jsonl").read_text().splitlines()) == 3


def test_a_set_needs_no_model(cli: Cli, tmp_path: Path) -> None:
    ran = cli("generate", "opinions", "-o", tmp_path / "data")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == ["104 rows in pos.jsonl, 104 rows in neg.jsonl", str(tmp_path / "data")]
    ran = cli("generate", "opinions", "-o", tmp_path / "data")
    assert (ran.code, "exists; name another with -o" in ran.err) == (1, True)
    ran = cli("generate", "opinions", "-o", tmp_path / "data", "--force", "--json")
    assert (ran.json["output"], ran.json["rows"]) == (str(tmp_path / "data"), {"pos.jsonl": 104, "neg.jsonl": 104})


def test_sets_are_listed_each_with_what_its_rows_are(cli: Cli) -> None:
    ran = cli("generate", "--list-sets")
    lines = dict(re.split("  +", line, maxsplit=1) for line in ran.out.splitlines())
    assert (ran.code, lines) == (0, shipped_sets())
