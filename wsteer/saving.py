"""Write files and folders whole or not at all: a temporary sibling first, then a rename."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from uuid import uuid4

from wsteer import __version__
from wsteer.errors import WsteerError

RECORD = "wsteer.json"


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that exists (unless `force`) or cannot be made. Called before any work begins.

    With `force` only a file, an empty folder or a folder that wsteer wrote (it holds `wsteer.json`) is replaced,
    so that a slip like `-o ~ --force` deletes nobody's work.
    """
    if not path.is_symlink() and not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise WsteerError(f"cannot write {path}: {parent} is not a folder you may write to")
        return
    if not force:
        raise WsteerError(f"output {path} exists; name another with -o, or replace it with --force")
    if path.is_dir() and any(path.iterdir()) and not (path / RECORD).exists():
        raise WsteerError(f"output {path} is a folder that wsteer did not write (no {RECORD}); remove it yourself")


@contextlib.contextmanager
def new_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any failure it is removed."""
    with _sibling(path, force) as partial:
        yield partial
        os.replace(partial, path)


@contextlib.contextmanager
def new_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; on success it becomes `path`, on any failure it is removed."""
    with _sibling(path, force) as partial:
        partial.mkdir()
        yield partial
        _apply_umask(partial)
        if path.is_symlink() or path.exists():
            old = partial.with_suffix(".old")
            os.rename(path, old)
            os.rename(partial, path)
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        else:
            os.rename(partial, path)


def _apply_umask(folder: Path) -> None:
    """Give the folder's files the mode that the umask asks for: safetensors >= 0.8 writes its own as 0600."""
    mode = folder.stat().st_mode & 0o666  # mkdir has applied the umask to it
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextlib.contextmanager
def _sibling(path: Path, force: bool) -> Iterator[Path]:
    check_output(path, force)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = path.absolute().parent / f".{path.absolute().name}.{uuid4().hex[:8]}.partial"
    try:
        yield partial
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def check_free_space(path: Path, needed: int) -> None:
    """Raise if the file system that will hold `path` has fewer than `needed` bytes free."""
    parent = next(p for p in path.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise WsteerError(
            f"{parent} has {free / 1e9:.1f} GB free but {path.name} needs {needed / 1e9:.1f} GB; free some"
        )


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


def write_json(path: Path, value: object) -> None:
    """Write `value` as sorted, indented JSON; NaN and infinities are refused."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line, in the order and with the key order given."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
