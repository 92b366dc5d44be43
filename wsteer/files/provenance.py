"""Records of a run: its options, its inputs with their digests, versions."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from wsteer import __version__

RECORD = "wsteer.json"


def sha256(*paths: Path) -> str:
    """The sha256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def recordable(path: str | Path) -> str:
    r"""`path` as a record may hold it: as given if it is relative or a Hub id, else only its last part.

    Bytes that are not UTF-8 become `\xff`: a record is text.
    """
    shown = Path(path).name if Path(path).is_absolute() else str(Path(path))
    return os.fsencode(shown).decode("utf-8", "backslashreplace")


def source_entry(role: str, path: str | Path) -> dict[str, object]:
    """An input's entry in records and delta files; only local files, not Hub data sets, have a digest."""
    digest = sha256(Path(path)) if Path(path).is_file() else None
    return {"role": role, "path": recordable(path), "sha256": digest}


def record(command: str, options: Mapping[str, object], inputs: Iterable[Mapping[str, object]]) -> dict:
    """The record of one run of `command`. It holds no times and no absolute paths, so equal runs have equal records."""
    packages = ("torch", "transformers", "peft", "safetensors")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "command": command,
        "options": dict(options),
        "inputs": [dict(entry) for entry in inputs],
        "versions": versions,
        "wsteer_version": __version__,
    }


def key(described: object) -> str:
    """Twelve hex digits that identify what a run writes, a digest of `described`, which is of JSON's types."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
