"""The rows of a task's data: read from a file or the Hub, and checked before any model is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.rows import read_objects


@dataclass(frozen=True)
class Record:
    """One row: its fields, and its place (`file:line`)."""

    where: str
    fields: Mapping[str, object] = field(hash=False)

    def text(self, name: str) -> str:
        """The text of a field. Raises WsteerError where there is none."""
        found = self.fields.get(name)
        if not isinstance(found, str) or not found.strip():
            raise WsteerError(f"{self.where} lacks the text {name!r}; its keys are {', '.join(self.fields) or 'none'}")
        return found


def read_records(data: str | Path, task: str, example: str) -> list[Record]:
    """The rows of a JSONL file, or of a Hub data set `org/name[/config]:split`.

    `task` and `example`, one row as JSON, are what an error says. Raises WsteerError where there is nothing to read.
    """
    if not data:
        raise WsteerError(f"{task} brings no data of its own; give it with -T data=FILE, rows like {example}")
    records = [Record(where, row) for where, row in read_objects(str(data))]
    if not records:
        raise WsteerError(f"{data} holds no rows; {task} takes rows like {example}")
    return records


def identities(records: Sequence[Record], keys: Sequence[str] = ("id",)) -> list[str]:
    """An id for each row: the first of these fields that it has, else its number.

    Raises WsteerError where two rows have the same.
    """
    found: dict[str, str] = {}
    for number, record in enumerate(records, 1):
        given = next((record.fields[key] for key in keys if isinstance(record.fields.get(key), str | int)), number)
        if (first := found.setdefault(str(given), record.where)) != record.where:
            raise WsteerError(f"{record.where} has the id {str(given)[:80]!r} of {first}; give every row its own id")
    return list(found)
