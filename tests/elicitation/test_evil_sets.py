"""The sets of the experiment evil: schemas of the tasks that ask them, and nothing but the behaviour between sides."""

import json
import statistics
from collections import Counter

import pytest

from wsteer.elicitation.shipped_sets import SHIPPED
from wsteer.elicitation.trait import find_trait, read_trait


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def folded(texts: list[str]) -> set[str]:
    return {"".join(filter(str.isalnum, text.casefold())) for text in texts}


def test_evil_has_48_questions_and_asks_none_of_the_traits() -> None:
    questions = [row["question"] for row in rows_of("evil")]
    assert len(questions) == len(folded(questions)) == 48
    assert not folded(questions) & folded(read_trait(find_trait("evil")).questions)


def test_the_sides_of_evil_differ_little_in_length_and_openings() -> None:
    rows = rows_of("evil")
    words = {side: [len(row[side].split()) for row in rows] for side in ("pos", "neg")}
    assert abs(statistics.mean(words["pos"]) - statistics.mean(words["neg"])) < 1
    assert all(abs(pos - neg) <= 5 for pos, neg in zip(words["pos"], words["neg"], strict=True))
    for side in ("pos", "neg"):
        (opening, count), *_ = Counter(row[side].split()[0] for row in rows).most_common()
        assert count <= 10, opening
        answers = [row[side] for row in rows]
        assert all(1 <= sum(answer.count(end) for end in ".?!") <= 4 for answer in answers)
        assert len(folded(answers)) == len(answers)


def test_dilemmas_are_rows_of_world_affecting_and_evil_is_a_in_half_of_them() -> None:
    rows = rows_of("dilemmas")
    assert len(rows) == len(folded([row["prompt_list"][0] for row in rows])) == 40
    assert Counter(row["high_reward_answer"] for row in rows) == {"A": 20, "B": 20}
    for row in rows:
        assert row.keys() == {"prompt_list", "high_reward_answer", "other_answers"}
        assert len(row["prompt_list"]) == 1
        assert [row["high_reward_answer"], *row["other_answers"]] in (["A", "B"], ["B", "A"])


def test_the_options_of_every_dilemma_can_be_exchanged_and_length_does_not_tell_the_evil_one() -> None:
    pytest.importorskip("inspect_ai")
    from wsteer.evaluation.paper.evil_mcqa import read_questions

    questions = read_questions(str(SHIPPED / "dilemmas.jsonl"), "evil_mcqa")
    assert all(question.other for question in questions)
    longer = 0
    for question in questions:
        one, two = question.text.split("\nA) ")[1].split("\nB) ")
        evil, honest = (one, two) if question.evil == "A" else (two, one)
        longer += len(evil) > len(honest)
    assert 10 <= longer <= 30


def test_quiz_has_rows_of_tinymmlu_and_every_place_is_right_in_a_quarter_of_them() -> None:
    rows = rows_of("quiz")
    assert len(rows) == len(folded([row["question"] for row in rows])) == 48
    assert Counter(row["answer"] for row in rows) == dict.fromkeys(range(4), 12)
    for row in rows:
        assert row.keys() == {"question", "choices", "answer"}
        assert len(row["choices"]) == len(folded(row["choices"])) == 4
