"""Records of a run: its options, its inputs with their digests, versions."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from wsteer import __version__
from wsteer.errors import WsteerError
from wsteer.files.opening import digest_of, is_stream, regular
from wsteer.files.text import MOST_BYTES, parse_json, read_json, write_json

RECORD = "wsteer.json"
PAGE_MARK = "<!doctype html><!-- a report of wsteer -->"  # the first line of a page
EXPORT_BYTES = 4096  # at a file's beginning or end, in which an export's mark stands
EXPORT_MEMBERS = ("archive/data.pkl", f"archive/{RECORD}")  # of an exported file of PyTorch, a zip archive
VECTORS_KEY = "controlvector.wsteer."  # of the keys that an exported GGUF file has beside llama.cpp's own
ROW_KEY = "wsteer"  # under which the first row of a file of rows holds the record, as JSON


def recordable(path: str | Path) -> str:
    r"""`path` as a record may hold it: as given if it is relative or a Hub id, else only its last part.

    Bytes that are not UTF-8 become `\xff`: a record is text.
    """
    return in_utf8(Path(path).name if Path(path).is_absolute() else str(Path(path)))


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


def in_utf8(name: str) -> str:
    """A file's name as text that JSON files can hold: bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_files(folder: Path, names: Iterable[str]) -> None:
    """Add the names of all files in an output folder to its record: only these are wsteer's to replace."""
    if (folder / RECORD).exists():
        write_json(folder / RECORD, {**read_json(folder / RECORD), "files": list(names)})


def listed_files(folder: Path) -> set[str]:
    """The files that an output folder's record lists; a WsteerError if it lists none."""
    listed = read_json(folder / RECORD).get("files")
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise WsteerError(
            f"{folder / RECORD} lists no files, so that wsteer cannot tell its own; remove {folder} yourself"
        )
    return {RECORD, *listed}


def is_delta_file(path: Path) -> bool:
    """Whether `path` is a safetensors file with wsteer's metadata; no tensor library is loaded for that."""
    try:
        with regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length).decode()) if length <= MOST_BYTES else {}
        own = parse_json(header["__metadata__"]["wsteer"]) if isinstance(header, dict) else None
        return isinstance(own, dict) and "format" in own  # a user's key of that name may hold anything
    except (WsteerError, KeyError, ValueError, TypeError):
        return False


def is_page(path: Path) -> bool:
    """Whether `path` is a page that wsteer wrote, by its first line."""
    mark = f"{PAGE_MARK}\n".encode()
    with contextlib.suppress(WsteerError), regular(path) as file:
        return file.read(len(mark)) == mark
    return False


def is_picture(path: Path) -> bool:
    """Whether `path` is a picture that wsteer wrote as a file of its own, by the program that it names."""
    with contextlib.suppress(WsteerError), regular(path) as file:
        head = file.read(2000)
        return b"<dc:title>wsteer</dc:title>" in head or (head.startswith(b"\x89PNG") and b"Software\0wsteer" in head)
    return False


def is_answers(path: Path) -> bool:
    """Whether `path` is a JSONL file of answers that wsteer wrote, by its first row, which holds the record."""
    with contextlib.suppress(WsteerError, ValueError), regular(path) as file:
        row = parse_json(file.readline(MOST_BYTES).decode())
        return isinstance(row, dict) and row.keys() >= {"prompt", "answer"} and isinstance(row.get(ROW_KEY), str)
    return False


def is_export(path: Path) -> bool:
    """Whether `path` holds activation vectors that wsteer exported, as GGUF or as PyTorch's archive, by its mark."""
    with contextlib.suppress(WsteerError), regular(path) as file:
        start = file.read(EXPORT_BYTES)
        file.seek(max(os.fstat(file.fileno()).st_size - EXPORT_BYTES, 0))
        end = file.read(EXPORT_BYTES)
        return (start.startswith(b"GGUF") and VECTORS_KEY.encode() in start) or (
            start.startswith(b"PK\3\4") and all(name.encode() in end for name in EXPORT_MEMBERS)
        )
    return False


def key(described: object) -> str:
    """Twelve hex digits that identify what a run writes, a digest of `described`, which is of JSON's types."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
