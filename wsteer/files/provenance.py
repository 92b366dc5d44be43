"""Records of what a run was given: options, inputs with their digests, versions."""

import hashlib
import json
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
    """`path` as it may stand in a record: as given where relative or a Hub id, else its last part alone."""
    return Path(path).name if Path(path).is_absolute() else str(Path(path))


def source_entry(role: str, path: str | Path) -> dict[str, object]:
    """An input as records and delta files list it; one that is no local file, such as a Hub data set, has no digest."""
    digest = sha256(Path(path)) if Path(path).is_file() else None
    return {"role": role, "path": recordable(path), "sha256": digest}


def record(command: str, options: Mapping[str, object], inputs: Iterable[Mapping[str, object]]) -> dict:
    """What was resolved for one run of `command`: no clock times and no absolute paths, so equal runs compare equal."""
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
    """Twelve letters that tell what is written from what another run would write; `described` is of JSON's types."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
