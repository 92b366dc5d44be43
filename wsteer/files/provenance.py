"""Records of a run: its options, its inputs with their digests, versions."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from wsteer import __version__
from wsteer.files.opening import digest_of, is_stream

RECORD = "wsteer.json"


def recordable(path: str | Path) -> str:
    """`path` as a record may hold it: as given if it is relative or a Hub id, else only its last part."""
    return Path(path).name if Path(path).is_absolute() else str(Path(path))


def source_entry(role: str, path: str | Path) -> dict[str, object]:
    """An input's entry in records and delta files; only local files and pipes, not Hub data sets, have a digest.

    It is called after the input was read. A pipe's path is `-`, since its number differs from run to run.
    """
    if is_stream(path):
        return {"role": role, "path": "-", "sha256": digest_of(path)}
    return {"role": role, "path": recordable(path), "sha256": digest_of(path) if Path(path).is_file() else None}


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
