"""Digests of files and folders: whether a step's inputs and outputs are what they were."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

BLOCK = 1 << 20


class Digests:
    """Digests of files and folders; a file of a known size and time of change is read once."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int, int], str] = {}

    def of(self, path: str | Path) -> str | None:
        """The digest of a file, or of a folder with the names and contents of its files; None for anything else.

        Hidden files do not count: among them are the temporary ones of a run that was killed.
        """
        if os.path.isfile(path):
            return self._file(Path(path))
        if not os.path.isdir(path):
            return None
        found: dict[str, str] = {}
        for folder, names, files in os.walk(path):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for name in files:
                each = Path(folder, name)
                if not name.startswith(".") and each.is_file():
                    found[os.fsencode(each.relative_to(path)).decode("utf-8", "backslashreplace")] = self._file(each)
        return _digest(found)

    def _file(self, path: Path) -> str:
        state = path.stat()
        key = (os.path.abspath(path), state.st_size, state.st_mtime_ns)
        if key not in self.known:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            self.known[key] = digest.hexdigest()
        return self.known[key]


def _digest(files: Mapping[str, str]) -> str:
    return digest_of_text(json.dumps(files, sort_keys=True))


def digest_of_text(text: str) -> str:
    """The digest of a text, which may have bytes that are not UTF-8."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()
