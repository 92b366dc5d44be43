"""What is finished in a folder of pairs: the fine-tunes and differences that --resume keeps, and their reports."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from wsteer.errors import Interrupted, WsteerError
from wsteer.files.flushing import replace_json
from wsteer.files.provenance import RECORD, listed_files
from wsteer.files.saving import without_work
from wsteer.files.text import read_json
from wsteer.training import processes

REPORTS = "pairs.json"  # the reports by label
KEYS = ("command", "options", "inputs")
SHOWN = 80  # characters of a value that a message shows


class Finished:
    """The reports of what is finished in the folder, by label: `evil/pos`, `evil/neg`, `evil/w.safetensors`."""

    def __init__(self, folder: Path, earlier: bool) -> None:
        self.folder = folder
        self.reports: dict[str, dict[str, Any]] = {}
        if earlier and (folder / REPORTS).exists():
            self.reports = read_json(folder / REPORTS)

    def report(self, label: str, record: Mapping[str, object], force: bool) -> dict[str, Any] | None:
        """The report of a fine-tune with this record; None if it is to be trained.

        Raises WsteerError if another fine-tune is in its place, unless `force` may replace it.
        """
        folder = self.folder / label
        if not folder.exists() or not (folder / RECORD).exists():
            return None
        if change := changed(read_json(folder / RECORD), record):
            if force:
                return None
            raise WsteerError(
                f"{folder} was trained otherwise: {change}; train it again with --resume --force, or name another "
                "output with -o"
            )
        whole = all((folder / name).is_file() for name in listed_files(folder))
        return self.reports.get(label) if whole else None

    def is_whole(self, label: str, names: Set[str]) -> bool:
        """Whether a difference is there as it was written, with a report that has the fields `names`."""
        path, report = self.folder / label, self.reports.get(label, {})
        return path.is_file() and path.stat().st_size == report.get("bytes") and report.keys() == names

    def keep(self, label: str, report: Mapping[str, object]) -> None:
        """Keep the report of what has just been written, and list its files in the folder's record."""
        self.reports[label] = json.loads(json.dumps(report))
        if processes.is_first():
            replace_json(self.folder / REPORTS, self.reports)
            replace_json(self.folder / RECORD, {**read_json(self.folder / RECORD), "files": self.files()})

    def files(self) -> list[str]:
        """The files of all that is finished, by their path in the folder."""
        names = [REPORTS] if self.reports else []
        for label in self.reports:
            path = self.folder / label
            if (path / RECORD).is_file():
                names += [f"{label}/{name}" for name in listed_files(path)]
            elif path.is_file():
                names.append(label)
        return sorted(names)

    @contextlib.contextmanager
    def going_on(self, label: str) -> Iterator[None]:
        """Say of a failure in the `with` body where it happened, and how to go on.

        A folder in which nothing is finished, and no work to go on with, is removed.
        """
        try:
            yield
        except (WsteerError, OSError, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt)
            reason = str(without_work(error)) or ("interrupted" if stopped else type(error).__name__)
            kept = f"; {self.folder} keeps the work so far: go on with the same command and --resume"
            if processes.is_first() and self._remove_empty():
                kept = ""
            raise (Interrupted if stopped else WsteerError)(f"{label}: {reason}{kept}") from error

    def _remove_empty(self) -> bool:
        if any(path.name != RECORD for path in self.folder.iterdir()):
            return False
        (self.folder / RECORD).unlink()
        self.folder.rmdir()
        return True


def changed(earlier: Mapping[str, Any], now: Mapping[str, Any], beside: tuple[str, ...] = ()) -> str:
    """What differs first between two records in options or inputs, in words; empty if nothing does.

    Versions may differ, and what `beside` names. An input is known by its digest, wherever it lies.
    """
    try:
        before, after = (json.loads(json.dumps({key: each[key] for key in KEYS})) for each in (earlier, now))
        options, given = before["options"], after["options"]
        for name in sorted((options.keys() | given.keys()) - {*beside}):
            if options.get(name) != given.get(name):
                flag = name.replace("_", "-")
                return f"{flag} {_shown(options.get(name))} there, {_shown(given.get(name))} now"
        inputs = [
            [_known(entry) for entry in each["inputs"] if entry["role"] not in beside] for each in (before, after)
        ]
        for entry, described in zip(after["inputs"], map(_known, after["inputs"]), strict=True):
            if entry["role"] not in beside and described not in inputs[0]:
                return f"{entry['role']} {_shown(entry.get('path') or entry.get('name'))} is another now"
        return "" if inputs[0] == inputs[1] else "with other inputs"
    except (AttributeError, KeyError, TypeError):
        return "its record is not one of finetune"


def of_json(report: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A report's fields as they were before they became JSON, with the place where its output is now."""
    return {**{key: _tuples(value) for key, value in report.items()}, "output": str(output)}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _known(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "path" or not entry.get("sha256")}


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
