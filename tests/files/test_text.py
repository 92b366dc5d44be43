"""JSON files."""

from pathlib import Path

import pytest

from wsteer.files.text import write_json


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x", {"a": float("nan")})
