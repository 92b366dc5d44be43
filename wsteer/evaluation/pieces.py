"""What is finished of an evaluation: one piece for each task and condition, with which an interrupted run goes on."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, Outcome, Row
from wsteer.files.saving import WORK, mark_work
from wsteer.files.text import read_json, write_jsonl

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
            found = read_json(self._path(key, condition))
            rows = tuple(Row(**row) for row in found["rows"])
            measures = tuple(Measure(**measure) for measure in found["measures"])
            samples, files = tuple(found["samples"]), dict(found["files"])
            return Outcome(rows, measures, tuple(found["warnings"]), samples, files)
        except (WsteerError, KeyError, TypeError):  # missing, or torn
            return None

    def write(self, key: str, condition: Condition, outcome: Outcome) -> None:
        """Keep an outcome; a run that is interrupted after this goes on behind it."""
        self.folder.mkdir(exist_ok=True)
        path = self._path(key, condition)
        partial = path.with_suffix(".partial")
        write_jsonl(partial, [asdict(outcome)])  # one line of JSON, whose keys keep their order
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
        return self.folder / f"{key}.{condition.name}.json"
