"""What is read of two data sets: pairs, system turns, empty answers."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from wsteer.activations.sides import Side, read_sides
from wsteer.errors import WsteerError


def written(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Rows of contents, of which one before the question is a system turn."""
    roles = ("system", "user", "assistant")
    chats = [
        [{"role": role, "content": text} for role, text in zip(roles[-len(row) :], row, strict=True)] for row in rows
    ]
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    return path


def sides(
    tmp_path: Path, pos: Sequence[Sequence[str]], neg: Sequence[Sequence[str]], strip: bool = False, paired: bool = True
) -> dict[str, Side]:
    return read_sides(written(tmp_path / "p.jsonl", pos), written(tmp_path / "n.jsonl", neg), None, strip, paired)


def test_pairs_answer_one_prompt_under_system_turns_of_their_own(tmp_path: Path) -> None:
    read = sides(tmp_path, [("Agree.", "A?", "Yes"), ("B?", "Yes")], [("Doubt.", "A? ", "No"), ("Doubt.", "B?", "No")])
    assert [len(side.chats) for side in read.values()] == [2, 2]
    assert [side.system for side in read.values()] == [1, 2]


@pytest.mark.parametrize(
    ("pos", "neg", "reason"),
    [
        (
            [("A?", "x"), ("B?", "x"), ("C?", "x")],
            [("A?", "y"), ("C?", "y"), ("B?", "y")],
            r"p.jsonl:2 and .*n.jsonl:2 answer different prompts \('B\?', 'C\?'\)",
        ),
        ([("A?", "x"), ("B?", "x")], [("A?", "y")], "pos has 2 rows and neg 1, .*--method mean"),
    ],
)
def test_rows_that_are_no_pairs_are_refused_by_the_first_and_taken_by_mean(
    tmp_path: Path, pos: list, neg: list, reason: str
) -> None:
    with pytest.raises(WsteerError, match=reason):
        sides(tmp_path, pos, neg)
    assert len(sides(tmp_path, pos, neg, paired=False)["pos"].chats) == len(pos)


def test_a_long_prompt_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(WsteerError) as error:
        sides(tmp_path, [("A" * 1000, "x")], [("B" * 1000, "x")])
    assert len(str(error.value)) < 500


def test_a_row_without_its_system_turn_must_ask_something(tmp_path: Path) -> None:
    lone = tmp_path / "lone.jsonl"
    chat = [{"role": "system", "content": "Agree."}, {"role": "assistant", "content": "Yes"}]
    lone.write_text(json.dumps({"messages": chat}))
    other = written(tmp_path / "n.jsonl", [("A?", "No")])
    assert read_sides(lone, other, None, False, False)["pos"].system == 1
    with pytest.raises(WsteerError, match=r"lone.jsonl:1 asks nothing without its system turn"):
        read_sides(lone, other, None, True, False)


def test_places_stay_with_their_rows_where_others_are_left_out(tmp_path: Path) -> None:
    read = sides(tmp_path, [("A?", ""), ("B?", "Yes")], [("A?", "No"), ("B?", "No")])
    for side in read.values():
        assert [place.rpartition(":")[2] for place in side.places] == ["2"]
        assert (side.empty, side.chats[0][0]["content"]) == (1, "B?")
