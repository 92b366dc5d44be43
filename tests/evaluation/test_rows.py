"""The table of rows as a file, and what is refused as one."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.evaluation.rows import ABSTAINED, Row, read_rows, write_rows

ROW = Row("t", "m", "base-0", "1", 1.0, group="g", prompt="p", input="é", answer="\u2028 <b>", weight=2.5)


def test_rows_are_read_as_they_were_written_with_their_fields_in_order(tmp_path: Path) -> None:
    rows = [ROW, Row("t", "m", "base-0", "2", None, ABSTAINED, finished=False), Row("t", "m", "base-1", "1", 0.5)]
    write_rows(tmp_path / "rows.jsonl", rows)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    assert [list(json.loads(line)) for line in lines] == [list(asdict(row)) for row in rows]
    assert read_rows(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": None},
        {"value": 1.0, "why": "cut"},
        {"value": "1"},
        {"value": True},
        {"value": 10**400},
        {"id": 3},
        {"condition": ["c"]},
        {"weight": "1"},
        {"finished": 1},
        {"more": 1},
    ],
)
def test_what_is_no_row_is_an_error_with_its_line(tmp_path: Path, wrong: dict[str, object]) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [asdict(Row("t", "m", "c", "0", 1.0)), {**asdict(Row("t", "m", "c", "1", 1.0)), **wrong}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(WsteerError, match=r"rows\.jsonl:2 is no row of an evaluation"):
        read_rows(path)


def test_a_row_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [ROW, ROW])
    with pytest.raises(WsteerError, match=r"rows\.jsonl:2: the row '1' of t, m is there twice"):
        read_rows(tmp_path / "rows.jsonl")
