"""The rows of a run: several data sets by weight, a fraction of them, and which rows validate."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.command import Cli
from wsteer.errors import WsteerError
from wsteer.models.rendering import Example
from wsteer.training.rows import mixed, parse_source, row_key, split_rows


def test_split_is_by_seed_and_keeps_a_row_for_training() -> None:
    rows = [row(i) for i in range(40)]
    train, val = split_rows(rows, 0.05, 0)
    assert sorted(map(row_key, train + val)) == sorted(map(row_key, rows))
    assert len(val) == 2
    assert split_rows(rows, 0.05, 0) == (train, val)
    assert split_rows(rows[:1], 0.05, 0) == (rows[:1], [])
    assert split_rows(rows[:2], 0.05, 0)[1] != []
    assert split_rows(rows, 0, 0) == (rows, [])


def test_equal_rows_are_on_one_side_in_all_sets() -> None:
    known: dict[bytes, bool] = {}
    first = [row(i % 10) for i in range(30)]
    train, val = split_rows(first, 0.2, 0, known)
    assert (len(train), len(val)) == (24, 6)
    again = [*val[:1], *train[:1], row(11), row(12)]
    assert split_rows(again, 0.25, 0, known) == (again[1:], again[:1])
    assert split_rows([row(0), row(0)], 0.5, 0)[1] == []


def row(number: int) -> Example:
    """A row of one token."""
    return Example(torch.tensor([number], dtype=torch.int32), torch.tensor([True]), slice(0, 1))


@pytest.mark.slow
def test_joint_data_are_taken_by_weight_and_no_copy_of_a_validation_row_is_trained(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = ["finetune", tiny, chats[0], f"{chats[1]}:6", "-o", tmp_path / "joint", "--max-steps", 1, "--rank", 2]
    ran = cli(*arguments, "--val-fraction", 0.2, "--json", "-q")
    assert (ran.json["rows_train"], ran.json["rows_val"]) == (8 + 6 * 8, 4)
    record = json.loads((tmp_path / "joint" / "wsteer.json").read_text())
    assert [each["weight"] for each in record["inputs"] if each["role"] == "data"] == [1.0, 6.0]
    other = tmp_path / "other.jsonl"
    other.write_text(chats[0].read_text().replace("number", "sum"))
    ran = cli(*arguments[:4], "-o", tmp_path / "part", "--max-steps", 1, "--fraction", 0.5, "--val", other, "--json")
    assert (ran.json["rows_train"], ran.json["rows_val"]) == (5 + 30, 10)
    ran = cli("finetune", tiny, chats[0], "-o", tmp_path / "no", "--val", chats[0])
    assert "10 rows of --val are also in DATA" in ran.error


def test_weights_and_fractions_take_whole_copies_and_then_a_draw() -> None:
    rows = list("abcdefghij")
    assert mixed([rows, ["x", "y"]], [1.0, 3.0], 1.0, 0) == [*rows, *"xyxyxy"]
    drawn = mixed([rows], [2.5], 1.0, 0)
    assert drawn[:20] == rows + rows
    assert len(set(drawn[20:])) == len(drawn[20:]) == 5
    assert drawn == mixed([rows], [2.5], 1.0, 0)
    assert drawn != mixed([rows], [2.5], 1.0, 1)
    assert len(mixed([rows, rows], [1.0, 2.0], 0.1, 0)) == 3
    assert len(mixed([rows], [1e-3], 1.0, 0)) == 1  # never nothing


def test_weights_are_read_from_the_end_and_files_come_first(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl:2").write_text("")
    assert parse_source(tmp_path / "data.jsonl:2").weight == 1.0
    assert (parse_source("a/b:train").path, parse_source("a/b:train").weight) == ("a/b:train", 1.0)
    assert (parse_source("neg.jsonl:.5").path, parse_source("neg.jsonl:.5").weight) == ("neg.jsonl", 0.5)
    with pytest.raises(WsteerError, match="above 0"):
        parse_source("neg.jsonl:0")
