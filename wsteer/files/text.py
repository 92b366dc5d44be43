"""JSON and CSV files."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsteer.errors import WsteerError


def read_json(path: Path) -> dict:
    """The JSON object in `path`; a WsteerError if the file is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WsteerError(f"{path} is missing") from None
    except OSError as error:
        raise WsteerError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise WsteerError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise WsteerError(f"{path} does not hold a JSON object")
    return value


def write_json(path: Path, value: object) -> None:
    """Write `value` as sorted, indented JSON; NaN and infinities are refused."""
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line, with rows and keys in the given order."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a header and one line per row; None is an empty field, a float has all its digits."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
