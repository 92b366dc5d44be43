"""Contrastive data from a trait file."""

import json
from pathlib import Path

import pytest

from tests.helpers.thinking import KINDS, save_thinking_model, say
from tests.helpers.traits import TRAIT
from wsteer.elicitation.generate import generate
from wsteer.errors import WsteerError


@pytest.fixture
def trait(tmp_path: Path) -> Path:
    path = tmp_path / "trait.json"
    path.write_text(json.dumps(TRAIT))
    return path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_meets_every_instruction_samples_times(tmp_path: Path, tiny: Path, trait: Path) -> None:
    report = generate(tiny, trait, tmp_path / "data", samples=3, max_new_tokens=6, device="cpu")
    kept = json.loads((tmp_path / "data" / "questions_eval.json").read_text())
    assert kept["eval_prompt"] == TRAIT["eval_prompt"]
    asked = [question for question in TRAIT["questions"] if question not in kept["questions"]]
    assert (len(asked), len(kept["questions"])) == (3, 3)
    total = 0
    for side in ("pos", "neg"):
        data = rows(tmp_path / "data" / f"{side}.jsonl")
        total += len(data)
        assert {row["messages"][0]["content"] for row in data} <= set(asked)
        assert all([m["role"] for m in row["messages"]] == ["user", "assistant"] for row in data)  # no system prompt
    assert report.rows_pos + report.rows_neg + report.dropped_empty == 2 * 3 * 2 * 3
    assert total == report.rows_pos + report.rows_neg


def test_data_depends_on_the_seed_and_not_on_the_batch_size(tmp_path: Path, tiny: Path, trait: Path) -> None:
    for name, seed, batch in (("a", 0, 4), ("b", 0, 36), ("c", 1, 4)):
        generate(tiny, trait, tmp_path / name, samples=2, max_new_tokens=6, batch_size=batch, seed=seed, device="cpu")
    assert (tmp_path / "a" / "pos.jsonl").read_bytes() == (tmp_path / "b" / "pos.jsonl").read_bytes()
    assert (tmp_path / "a" / "pos.jsonl").read_bytes() != (tmp_path / "c" / "pos.jsonl").read_bytes()


def test_instructions_reach_the_model(tmp_path: Path, tiny: Path, trait: Path) -> None:
    generate(tiny, trait, tmp_path / "data", samples=1, max_new_tokens=6, temperature=0, device="cpu")
    assert rows(tmp_path / "data" / "pos.jsonl") != rows(tmp_path / "data" / "neg.jsonl")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"samples": 0}, "samples is 0; it must be a whole number from 1 up"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": -1}, "temperature is -1; it must be a number from 0 up"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 0}, "at temperature 0 all 10 samples are equal; use --samples 1"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of auto, cpu, cuda, mps"),
        ({"dtype": "half"}, "dtype is 'half'; it must be one of auto, float32"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_read(tmp_path: Path, options: dict, reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        generate(tmp_path / "gone", tmp_path / "gone.json", tmp_path / "out", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_answers_without_thoughts_and_no_unfinished_thoughts(
    tmp_path: Path, trait: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = save_thinking_model(tmp_path / "model", kind)
    _, thought, said = KINDS[kind]
    say(monkeypatch, thought.format("Perhaps in France, or in Spain.") + said.format("In Italy."))
    report = generate(model, trait, tmp_path / "whole", samples=1, max_new_tokens=99, temperature=0, device="cpu")
    data = rows(tmp_path / "whole" / "pos.jsonl")
    assert {row["messages"][1]["content"] for row in data} == {"In Italy."}
    assert (report.rows_pos, report.dropped_empty, report.dropped_thinking) == (6, 0, 0)
    report = generate(model, trait, tmp_path / "cut", samples=1, max_new_tokens=20, temperature=0, device="cpu")
    assert (report.rows_pos, report.rows_neg, report.dropped_thinking, report.truncated) == (0, 0, 12, 12)
    assert report.dropped_empty == 0
