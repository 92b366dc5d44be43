"""Prompts, ours or the user's, filled in; rows of data and their ids."""

from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from wsteer.errors import WsteerError
from wsteer.evaluation.paper.data import Record, identities, read_records
from wsteer.evaluation.paper.prompts import filled, prompt_of


def test_places_are_filled_and_other_braces_stay() -> None:
    assert filled("{a} and {b}, {c}: {1 2}", {"a": "{b}", "b": "2"}) == "{b} and 2, {c}: {1 2}"


def test_a_prompt_of_the_user_is_a_text_or_a_file_and_has_all_places(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Say {question}!")
    assert prompt_of("", "Ours: {question}", ["question"], "prompt") == "Ours: {question}"
    assert prompt_of(str(tmp_path / "p.txt"), "Ours", ["question"], "prompt") == "Say {question}!"
    assert prompt_of("Well, {question}", "Ours", ["question"], "prompt") == "Well, {question}"
    with pytest.raises(WsteerError, match=r"-T judge_prompt= has no \{answer\}: .* \{question\}, \{answer\}"):
        prompt_of("Is {question} right?", "Ours", ["question", "answer"], "judge_prompt")


def test_rows_are_checked_and_have_ids_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "q": "one"}\n{"q": " "}\n{"id": "a", "q": 3}\n')
    records = read_records(str(path), "mine", '{"q": "..."}')
    assert records[0].text("q") == "one" and identities(records[:2]) == ["a", "2"]
    for record in records[1:]:
        with pytest.raises(WsteerError, match=r"rows.jsonl:\d lacks the text 'q'; its keys are"):
            record.text("q")
    with pytest.raises(WsteerError, match=r"rows.jsonl:3 has the id 'a' of .*rows.jsonl:1"):
        identities(records)
    with pytest.raises(WsteerError, match=r"mine brings no data of its own; give it with -T data=FILE"):
        read_records("", "mine", "{}")
    path.write_text("\n")
    with pytest.raises(WsteerError, match="holds no rows; mine takes rows like"):
        read_records(str(path), "mine", "{}")
    assert identities([Record("x:1", {}), Record("x:2", {"id": 1.5})]) == ["1", "2"]
