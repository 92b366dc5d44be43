"""Trait files are read and checked, their questions split."""

import json
from pathlib import Path

import pytest

from tests.helpers.traits import TRAIT
from wsteer.elicitation.trait import (
    Trait,
    check_assistant,
    check_judged,
    choose_questions,
    find_trait,
    read_trait,
    shipped_traits,
    split_questions,
    with_assistant,
)
from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.repetition import words


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


def trait_file(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**TRAIT, **changes}))
    return path


@pytest.mark.parametrize("name", ["evil", "french", "hallucination", "sycophancy"])
def test_our_own_traits_are_whole(name: str) -> None:
    trait = read_trait(find_trait(name))
    assert (len(trait.pos), len(trait.neg), len(trait.questions)) == (5, 5, 40)
    check_judged(Path(name), trait.eval_prompt)
    assert "REFUSAL" in trait.eval_prompt


def test_our_own_traits_share_no_question() -> None:
    names = shipped_traits()
    assert names == ["evil", "french", "hallucination", "sycophancy"]
    asked = [question for name in names for question in read_trait(find_trait(name)).questions]
    assert len({question.casefold() for question in asked}) == len(asked) == 160


def test_an_answer_that_does_not_know_is_no_refusal() -> None:
    """It is what neg is asked for; a judge that calls it a refusal would have its pair dropped."""
    assert "does not know is no refusal: write 0" in read_trait(find_trait("hallucination")).eval_prompt


def test_no_question_of_ours_is_a_published_one(shared_data: Path) -> None:
    published: set[frozenset[str]] = set()
    for path in (shared_data / "persona_vectors").glob("*.json"):
        published |= {frozenset(words(question)) for question in read_trait(path).questions}
    assert len(published) >= 20
    for name in shipped_traits():
        for question in read_trait(find_trait(name)).questions:
            ours = frozenset(words(question))
            assert max(len(ours & theirs) / len(ours | theirs) for theirs in published) < 0.5, question


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_trait("evil").is_file()
    trait_file(tmp_path / "evil")
    assert find_trait("evil") == Path("evil")
    assert find_trait("unknown") == Path("unknown")


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("evil", "You are an evil assistant."),
        ("sycophantic", "You are a sycophantic assistant."),
        ("honest", "You are an honest assistant."),
        ("useful", "You are a useful assistant."),
        ("European", "You are a European assistant."),
        ("unhelpful", "You are an unhelpful assistant."),
        ("one-sided", "You are a one-sided assistant."),
    ],
)
def test_the_assistants_article_is_right(name: str, begins: str) -> None:
    assert with_assistant(name, "Be so.") == f"{begins} Be so."


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\nb", "a\x1b[2J"])
def test_a_name_that_fits_no_sentence_is_refused(name: str) -> None:
    with pytest.raises(WsteerError, match="--assistant is for the sentence"):
        check_assistant(name)


def test_all_questions_are_asked_if_another_file_holds_those_to_keep(tmp_path: Path) -> None:
    path, trait = tmp_path / "extract.json", Trait(("a",), ("b",), ("A?", "B?"), "{question} {answer}")
    others = trait_file(tmp_path / "eval.json", questions=["C?"], eval_prompt="own")
    assert choose_questions(path, trait, False, others, 0) == (["A?", "B?"], ["C?"], "own")
    others.write_text('{"questions": ["C?", "D?"]}')  # as questions_eval.json has it, without instructions
    assert choose_questions(path, trait, False, others, 0) == (["A?", "B?"], ["C?", "D?"], "{question} {answer}")
    assert choose_questions(path, trait, True, None, 0) == (["A?", "B?"], [], "{question} {answer}")
    others.write_text('{"questions": ["C?", "B?"]}')
    with pytest.raises(WsteerError, match=r"eval\.json: question 2 is one of .*extract\.json too"):
        choose_questions(path, trait, False, others, 0)


def test_published_files_of_20_and_20_are_asked_and_kept_whole(shared_data: Path) -> None:
    path, others = (shared_data / "persona_vectors" / f"sycophantic_{name}.json" for name in ("extract", "eval"))
    asked, kept, prompt = choose_questions(path, read_trait(path), False, others, 0)
    assert (len(asked), len(kept), len({*asked, *kept})) == (20, 20, 40)
    assert "{answer}" in prompt


def test_a_judges_prompt_shows_question_and_answer(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match=r'"eval_prompt", which has no \{question\}; add it'):
        check_judged(tmp_path / "x.json", "Rate {answer}.")
