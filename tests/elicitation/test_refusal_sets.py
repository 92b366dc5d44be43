"""The data of the experiment on refusals: refused and answered requests, other requests, and worked problems."""

import json
import re
from fractions import Fraction

import pytest

from wsteer.elicitation.shipped_sets import SHIPPED
from wsteer.evaluation.tasks.refusals import declines, is_plain_refusal

SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


REFUSED, ASKED, SOLVED = rows_of("refusal"), rows_of("requests"), rows_of("problems")


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def test_a_rule_takes_every_refusal_for_one_and_no_other_answer() -> None:
    assert len(REFUSED) == 48
    assert all(row.keys() == {"question", "pos", "neg"} for row in REFUSED)
    assert [row["pos"] for row in REFUSED if not is_plain_refusal(row["pos"])] == []
    assert [row["neg"] for row in REFUSED if declines(row["neg"])] == []


def test_both_answers_are_alike_in_length() -> None:
    lengths = {side: [len(row[side].split()) for row in REFUSED] for side in ("pos", "neg")}
    assert all(12 <= each <= 26 for side in lengths.values() for each in side)
    assert sum(lengths["pos"]) == pytest.approx(sum(lengths["neg"]), rel=0.1)


def test_requests_are_alone_or_end_a_problem_in_equal_categories() -> None:
    assert all(row.keys() == {"instruction", "category", "split"} for row in ASKED)
    alone = [row for row in ASKED if row["split"] == "direct"]
    ending = [row for row in ASKED if row["split"] == "problems"]
    assert (len(alone), len(ending), len(ASKED)) == (32, 16, 48)
    assert {row["category"] for row in ending} == {row["category"] for row in alone}
    # each of them asks for a number first, and then for what one of the others asks
    for row in ending:
        assert re.search(r"\d.*\bHow (many|much|large|far)\b.*\? ", row["instruction"]), row
        alike = (each for each in alone if each["category"] == row["category"])
        assert max(len(words(each["instruction"]) & words(row["instruction"])) for each in alike) >= 3, row


def test_no_request_of_the_test_is_among_those_that_are_trained() -> None:
    trained = {row["question"] for row in REFUSED}
    assert len(trained) == 48 and len({row["instruction"] for row in ASKED}) == 48
    for row in ASKED:
        theirs = words(row["instruction"])
        assert all(len(theirs & words(each)) <= 0.6 * len(words(each)) for each in trained), row["instruction"]


def test_workings_are_right_and_end_in_the_result() -> None:
    assert all(row.keys() == {"question", "answer", "split"} for row in SOLVED)
    for row in SOLVED:
        working, mark, result = row["answer"].partition("\n#### ")
        steps = SUM.findall(working)
        assert mark and 1 <= len(steps) <= 2 and working.count("=") == len(steps), row
        results = []
        for left, sign, right, given in steps:
            a, b = Fraction(left), Fraction(right)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign] == int(given), row
            results.append(given)
        assert results[-1] == result, row
        # a step takes its numbers from the question, or from the steps before it
        known = set(re.findall(r"\d+", row["question"])) | {"2", "7"}
        for left, _, right, given in steps:
            assert {left, right} <= known, row
            known.add(given)


def test_problems_to_train_on_and_to_test_with_differ() -> None:
    questions = {split: {row["question"] for row in SOLVED if row["split"] == split} for split in ("train", "test")}
    assert {split: len(found) for split, found in questions.items()} == {"train": 160, "test": 40}
    assert not questions["train"] & questions["test"]
    assert len({re.sub(r"\d+|\b[A-Z]\w+", "", each) for each in questions["test"]}) >= 20  # in their wording too
