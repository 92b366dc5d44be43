"""JSON and CSV files."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsteer.errors import WsteerError

SURROGATES = "backslashreplace"  # a file name that is not UTF-8 has half pairs, which JSON writes as \udcff
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 without tab and newline, DEL, C1


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
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n",
        encoding="utf-8",
        errors=SURROGATES,
    )


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line, with rows and keys in the given order."""
    with open(path, "w", encoding="utf-8", errors=SURROGATES) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a header and one line per row; None is an empty field, a float has all its digits.

    Text that a spreadsheet would run as a formula gets a `'` before it, and control characters become escapes.
    """
    with open(path, "w", newline="", encoding="utf-8", errors=SURROGATES) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writerow({column: _cell(column) for column in columns})
        writer.writerows({column: _cell(value) for column, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
    return f"'{text}" if value.startswith(FORMULA) else text
