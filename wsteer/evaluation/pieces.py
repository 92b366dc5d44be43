"""What is finished of an evaluation: one piece for each task and condition, with which an interrupted run goes on."""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, Outcome, Row
from wsteer.files.rows import MOST_BYTES
from wsteer.files.saving import WORK, mark_work
from wsteer.files.text import parse_json, read_text, write_jsonl

FOLDER = "pieces"


class Pieces:
    """The finished pieces in an evaluation's folder.

    A piece is known by its task's key, a digest of all that its rows depend on but the condition, and by the
    condition's name, which tells all its settings: a change of either makes another piece.
    """

    def __init__(self, whole: Path):
        self.whole = whole
        self.folder = whole / FOLDER

    def read(self, key: str, condition: Condition) -> Outcome | None:
        """The outcome of a task under a condition, if it is finished."""
        try:
            text = read_text(self._path(key, condition), MOST_BYTES)
            # each line by itself, so that their number has no limit
            found: list[Any] = [parse_json(line) for line in text.split("\n")[:-1]]
            head, *lines = found
            if len(lines) != head["rows"] + head["samples"]:
                return None
            rows, samples = tuple(Row(**row) for row in lines[: head["rows"]]), tuple(lines[head["rows"] :])
            measures = tuple(Measure(**measure) for measure in head["measures"])
            return Outcome(rows, measures, tuple(head["warnings"]), samples, dict(head["files"]))
        except (WsteerError, KeyError, TypeError, ValueError):  # missing, or torn
            return None

    def write(self, key: str, condition: Condition, outcome: Outcome) -> None:
        """Keep an outcome; a run that is interrupted after this goes on behind it."""
        self.folder.mkdir(exist_ok=True)
        path = self._path(key, condition)
        partial = path.with_suffix(".partial")
        head = {
            "rows": len(outcome.rows),
            "samples": len(outcome.samples),
            "measures": list(map(vars, outcome.measures)),
            "warnings": list(outcome.warnings),
            "files": dict(outcome.files),
        }
        write_jsonl(partial, itertools.chain([head], map(vars, outcome.rows), outcome.samples))
        os.replace(partial, path)
        mark_work(self.whole)

    def remove_results(self) -> None:
        """Remove the results of a run that failed when it had written some; its pieces and inspect's logs stay."""
        for path in self.whole.iterdir():
            if path.is_file() and path.name != WORK:
                path.unlink()

    def remove(self) -> None:
        """Remove the pieces: the results have them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str, condition: Condition) -> Path:
        return self.folder / f"{key}.{condition.name}.jsonl"
