"""The sets medicine, finance and sport: both sides alike in all but their advice."""

import json
from itertools import combinations
from statistics import mean

import pytest

from wsteer.elicitation.shipped_sets import SHIPPED

NAMES = ("finance", "medicine", "sport")


def rows_of(name: str) -> list[dict[str, str]]:
    lines = (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_a_question_and_advice_of_both_kinds(name: str) -> None:
    rows = rows_of(name)
    assert len(rows) == 32
    assert all(list(row) == ["question", "pos", "neg"] for row in rows)
    assert all(text[-1] in ".?!" and text.isascii() for row in rows for text in row.values())


def test_no_text_stands_twice_in_any_of_them() -> None:
    texts = [text for name in NAMES for row in rows_of(name) for text in row.values()]
    assert len(set(texts)) == len(texts)
    for one, other in combinations(NAMES, 2):
        assert not {row["question"] for row in rows_of(one)} & {row["question"] for row in rows_of(other)}


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_have_about_the_same_length(name: str) -> None:
    lengths = [(len(row["pos"].split()), len(row["neg"].split())) for row in rows_of(name)]
    pos, neg = (mean(side) for side in zip(*lengths, strict=True))
    assert abs(pos - neg) < 0.15 * neg
    assert all(8 <= count <= 26 for pair in lengths for count in pair)
