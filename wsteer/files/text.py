"""Text files, read whole with one set of limits: JSON and CSV; JSON and CSV written."""

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.opening import BLOCK, read_whole

MOST_BYTES = 100_000_000  # of a text; no config, index or trait comes near
MOST_VALUES = 5_000_000  # in JSON; the header of a model of 100,000 tensors has a million
MOST_RATIO = 500  # of gzip, where more than FREE bytes come out; texts have 3 to 30
FREE = 64 << 20
GZIP = b"\x1f\x8b"
# the longest mark first: UTF-32's begins as UTF-16's does
WIDE = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SURROGATES = "backslashreplace"  # a file name that is not UTF-8 has half pairs, which JSON writes as \udcff
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one
# C0 without tab and newline, DEL, C1, marks and overrides of direction, line and paragraph separators, half pairs
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def read_text(path: str | Path, limit: int = MOST_BYTES, stream: bool = False) -> str:
    """The text of a file in UTF-8, with `\\n` at the end of each line, whatever its mark, line ends and gzip.

    The file is a regular one, or a pipe if a `stream` is allowed. Raises WsteerError if it is missing, longer than
    `limit` bytes, or no text in UTF-8.
    """
    content = read_whole(path, limit, stream)
    if content.startswith(GZIP):
        content = _unpacked(path, content, limit)
    wide = next((name for mark, name in WIDE.items() if content.startswith(mark)), None)
    if wide is None and b"\0" in content:
        # without a mark, UTF-16 shows by the NULs of its letters
        wide = "UTF-16" if b"\0" in content[:2] else None
        if wide is None:
            raise WsteerError(f"{path} is not UTF-8 text: it holds NUL bytes; is it the right file?")
    if wide is not None:
        raise WsteerError(f"{path} is {wide}, not UTF-8 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WsteerError(f"{path} is not UTF-8 text: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _unpacked(path: str | Path, content: bytes, limit: int) -> bytes:
    """What gzip has packed, in one part or several; a WsteerError if it is damaged, or unfolds into all memory."""
    blocks, size = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while block := file.read(BLOCK):
                blocks.append(block)
                size += len(block)
                if size > limit or size > max(FREE, MOST_RATIO * len(content)):
                    raise WsteerError(f"{path} unpacks to more than {size // 10**6} MB, which no honest text does")
    except (EOFError, OSError, zlib.error) as error:
        raise WsteerError(f"{path} is damaged gzip: {error}; write or download it again") from None
    return b"".join(blocks)


def parse_json(text: str, hook: Callable[[list[tuple[str, object]]], object] | None = None) -> object:
    """The value of a JSON text; a ValueError if it is broken, nested too deep, or has too many values to hold."""
    if len(text) > MOST_VALUES and sum(map(text.count, ",[{")) > MOST_VALUES:  # each value but the first follows one
        raise ValueError(f"it has more than {MOST_VALUES} values")
    try:
        return json.loads(text, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


class DuplicateKey(ValueError):
    """A JSON object has a key twice; `key` is the one."""

    def __init__(self, key: str) -> None:
        super().__init__(f"it has the key {key[:80]!r} twice")
        self.key = key


def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The hook of `parse_json` that refuses equal keys: json keeps the last of them, and says nothing."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise DuplicateKey(Counter(key for key, _ in pairs).most_common(1)[0][0])  # linear, as a bomb has many keys
    return value


def read_json(path: Path, hook: Callable[[list[tuple[str, object]]], object] | None = None) -> dict:
    """The JSON object in `path`; a WsteerError if the file is missing or broken."""
    if not path.exists():
        raise WsteerError(f"{path} is missing")
    try:
        value = parse_json(read_text(path), hook)
    except ValueError as error:
        raise WsteerError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise WsteerError(f"{path} does not hold a JSON object")
    return value


def read_csv(path: Path) -> tuple[list[str], list[dict]]:
    """The header and the rows of a CSV file; a WsteerError if it is missing or broken."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        return list(reader.fieldnames or []), list(reader)
    except csv.Error as error:
        raise WsteerError(f"{path} is no CSV: {error}") from None


def escaped(text: str) -> str:
    r"""`text` with control characters as a Python literal has them, and bytes of names that are not UTF-8 as `\xff`.

    >>> print(escaped("a\x1b[2Jb\u202ec\udcff"))
    a\x1b[2Jb\u202ec\xff
    """
    return CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
    return f"'{escaped(value)}" if value.startswith(FORMULA) else escaped(value)
