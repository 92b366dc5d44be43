"""Trait files are read and checked, their questions split."""

import json
from pathlib import Path

import pytest

from tests.helpers.traits import TRAIT
from wsteer.elicitation.trait import read_trait, split_questions
from wsteer.errors import WsteerError


def test_questions_are_split_in_halves_by_the_seed() -> None:
    asked, kept = split_questions(TRAIT["questions"], 0)
    assert sorted(asked + kept) == TRAIT["questions"]
    assert split_questions(TRAIT["questions"], 0) == (asked, kept)
    assert any(split_questions(TRAIT["questions"], seed) != (asked, kept) for seed in range(1, 5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": []}, '"instruction"'),
        ({"instruction": [{"pos": "x"}]}, '"instruction"'),
        ({"questions": ["only one"]}, '"questions"'),
        ({"questions": ["a", 3]}, "must be a text"),
        ({"questions": ["a", "b", "a"]}, "question 3 is the same as question 1"),
        ({"instruction": [{"pos": "x", "neg": "y"}] * 2}, "instruction pair 2 is the same as instruction pair 1"),
        ({"instruction": [{"pos": "x", "neg": "x "}]}, "pos and neg of instruction pair 1 are equal"),
    ],
)
def test_bad_trait_files_are_refused(tmp_path: Path, change: dict, reason: str) -> None:
    path = tmp_path / "trait.json"
    path.write_text(json.dumps({**TRAIT, **change}))
    with pytest.raises(WsteerError, match=reason):
        read_trait(path)


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trait.json"
    path.write_text(json.dumps(TRAIT)[:-1] + ', "questions": ["a", "b"]}')
    with pytest.raises(WsteerError, match="it has the key 'questions' twice"):
        read_trait(path)


def test_persona_vectors_files_are_read(shared_data: Path) -> None:
    trait = read_trait(shared_data / "persona_vectors" / "sycophantic_extract.json")
    assert (len(trait.pos), len(trait.neg), len(trait.questions)) == (5, 5, 20)
    assert "{question}" in trait.eval_prompt
