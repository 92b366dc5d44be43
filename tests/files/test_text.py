"""JSON and CSV files."""

from pathlib import Path

import pytest

from wsteer.files.text import write_csv, write_json


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x", {"a": float("nan")})


def test_csv_has_all_digits_and_empty_fields(tmp_path: Path) -> None:
    rows = [{"name": "a, b", "value": 0.1 + 0.2}, {"name": "c", "value": None}]
    write_csv(tmp_path / "x.csv", ("name", "value"), rows)
    assert (tmp_path / "x.csv").read_bytes() == b'name,value\n"a, b",0.30000000000000004\nc,\n'
