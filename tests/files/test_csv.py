"""CSV files and records: no formulas, no control characters, and names that are not UTF-8 as text."""

import csv
import os
from pathlib import Path

import pytest

from wsteer.files.provenance import recordable
from wsteer.files.text import write_csv, write_json


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_is_a_formula_is_quoted(tmp_path: Path, text: str) -> None:
    write_csv(tmp_path / "t.csv", ["name", "value"], [{"name": text, "value": -1.5}])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["name"].startswith("'")
    assert row["value"] == "-1.5"  # a number stays one


def test_control_characters_and_half_pairs_stay_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["name", "=x"], [{"name": "a\x1b[2J\x00\udcff", "=x": None}])
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == "name,'=x\na\\x1b[2J\\x00\\xff,\n"
    write_json(tmp_path / "t.json", {"name": "\udcff"})
    assert "\\udcff" in (tmp_path / "t.json").read_text(encoding="utf-8")


def test_a_path_that_is_not_utf8_is_recorded_as_text() -> None:
    assert recordable(os.fsdecode(b"a/caf\xe9")) == "a/caf\\xe9"
    assert recordable("a/café") == "a/café"
