"""Rows of data keep all their fields, and each has an id of its own."""

import json
from pathlib import Path

import pytest

from tests.helpers.tasks import FACT
from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.facts import Fact, read_facts


def read(folder: Path, rows: list[dict], **options) -> list[Fact]:
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_facts(folder / "facts.jsonl", **options)


def test_rows_keep_all_their_fields(tmp_path: Path) -> None:
    row = {**FACT, "level": 3, "tags": ["a", {"b": None}], "Best Answer": "4"}
    (fact,) = read(tmp_path, [row])
    assert fact.fields == row
    assert fact.values == {**row, "row": row}


def test_rows_of_a_repeated_question_are_separate_and_one_group(tmp_path: Path) -> None:
    other = {**FACT, "correct_answer": "four"}
    facts = read(tmp_path, [FACT, other, FACT, {**FACT, "question": "3?"}, {**FACT, "id": 7}])
    assert [fact.id for fact in facts] == ["2 + 2?", "2 + 2?#2", "2 + 2?#3", "3?", "7"]
    assert [fact.group for fact in facts] == ["2 + 2?"] * 3 + ["3?", "2 + 2?"]
    assert facts[1].fields["correct_answer"] == "four"


def test_a_repeated_question_takes_no_id_that_another_row_has(tmp_path: Path) -> None:
    again = {**FACT, "question": "2 + 2?#3"}
    facts = read(tmp_path, [FACT, again, FACT, FACT, again, FACT])
    ids = ["2 + 2?", "2 + 2?#3", "2 + 2?#2", "2 + 2?#4", "2 + 2?#3#2", "2 + 2?#5"]
    assert [fact.id for fact in facts] == ids


def test_rows_without_question_are_known_by_their_number(tmp_path: Path) -> None:
    facts = read(tmp_path, [{"text": "x"}, {"id": "b"}, {"text": "y"}], needed=())
    assert [(fact.id, fact.group) for fact in facts] == [("1", "1"), ("b", "b"), ("3", "3")]


def test_answer_jsonl_schema_gives_a_fact_a_question(tmp_path: Path) -> None:
    base = {"dataset": "trivia_qa", **FACT, "answer": ["four", "4"]}
    rows = [{"prompt": [], "base": base, "metadata": {"prompt_template": t}} for t in ("a", "b", "c", "d")]
    (fact,) = read(tmp_path, rows)
    assert (fact.fields["question"], fact.aliases, fact.wrong) == ("2 + 2?", ("4", "four"), ("5",))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{**FACT, "id": "x"}, {**FACT, "id": "x", "question": "3 + 1?"}], ":2 has the id 'x' of .*:1; give every row"),
        ([{**FACT, "id": "x"}, {**FACT, "id": "x"}], ":2 has the id 'x'"),
        ([{"base": FACT}, {"base": {**FACT, "incorrect_answer": "3"}}], ":2 has other answers than .*facts.jsonl:1 to"),
        ([{"base": {**FACT, "id": 1}}, {"base": {**FACT, "id": 1, "question": "3?"}}], ":2 has the id '1' of another"),
        ([{**FACT, "incorrect_answer": " 4. "}], ":1: correct_answer and incorrect_answer are the same"),
        ([{"question": "2?"}], ":1 lacks the text 'correct_answer'"),
        ([{**FACT, "id": ["x"]}], ":1 has an id that is neither text nor number"),
        ([{**FACT, "answer": "4"}], ":1: answer must be a list of texts"),
        ([], " holds no rows"),
    ],
)
def test_facts_that_contradict_are_refused(tmp_path: Path, rows: list[dict], reason: str) -> None:
    with pytest.raises(WsteerError, match=f"facts.jsonl{reason}"):
        read(tmp_path, rows)


def test_only_the_fields_that_scorers_compare_with_are_needed(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "correct_answer": "4"}
    (fact,) = read(tmp_path, [row], needed=("correct_answer",))
    assert (fact.aliases, fact.wrong) == (("4",), ())
    assert read(tmp_path, [{"incorrect_answer": 5, "answer": 3}], needed=())


def test_real_answer_jsonl_has_817_questions(shared_data: Path) -> None:
    facts = read_facts(shared_data / "truthfulqa" / "sycophancy_4way_truthfulqa.jsonl")
    assert len(facts) == 817
