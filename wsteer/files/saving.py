"""Write files and folders whole or not at all: a temporary sibling first, then a rename."""

import contextlib
import fcntl
import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD


def check_output(path: Path, force: bool, folder: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse an output that exists (unless `force`), cannot be made, or is one of the `inputs` or holds one.

    Called before any work begins. With `force` a file replaces only a file, and a folder only an empty folder or one
    that wsteer wrote (it holds `wsteer.json`), so a mistake like `-o ~ --force` deletes no work.
    """
    for given in inputs:
        if path.exists() and Path(given).exists() and Path(given).resolve().is_relative_to(path.resolve()):
            raise WsteerError(f"output {path} is the input {given} or holds it; name another output with -o")
    if not path.is_symlink() and not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise WsteerError(f"cannot write {path}: {parent} is not a folder you may write to")
        return
    if not force:
        raise WsteerError(f"output {path} exists; name another with -o, or replace it with --force")
    if Path.cwd().is_relative_to(path.resolve()):
        raise WsteerError(f"output {path} is the folder you are in; name a new one with -o")
    if not (path.is_dir() if folder else path.is_file()):
        raise WsteerError(f"output {path} is not a {'folder' if folder else 'file'}, which would replace it; remove it")
    if folder and any(path.iterdir()) and not (path / RECORD).exists():
        raise WsteerError(f"output {path} is a folder that wsteer did not write (no {RECORD}); remove it yourself")


@contextlib.contextmanager
def new_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any failure it is removed."""
    _clear_leftovers(path)
    check_output(path, force, folder=False)
    with _sibling(path, folder=False) as partial:
        yield partial
        os.replace(partial, path)


@contextlib.contextmanager
def new_folder(path: Path, force: bool = False, key: str | None = None, resume: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it becomes `path`, on any failure it is removed.

    With a `key`, which identifies what is written, an interrupted run (killed, or Ctrl-C) leaves its folder. The next
    run with the same key gets that folder unchanged if `resume` is set; otherwise it starts with an empty one.
    """
    _clear_leftovers(path, key if resume else None)
    check_output(path, force, folder=True)
    with _sibling(path, folder=True, key=key, resume=resume) as partial:
        yield partial
        _apply_umask(partial)
        _swap(partial, path)


def partial_folder(path: Path, key: str) -> Path:
    """The temporary folder in which `new_folder` writes what becomes `path`."""
    return path.absolute().parent / f".{path.name}.{key}.partial"


def _swap(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`; an existing `path` is moved aside first, and back on any failure."""
    if not path.exists():
        os.rename(partial, path)
        return
    old = partial.with_suffix(".old")
    try:
        os.rename(path, old)
        os.rename(partial, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    _remove(old)


def _apply_umask(folder: Path) -> None:
    """Give the folder's files the mode that the umask asks for: safetensors >= 0.8 writes files as 0600."""
    mode = folder.stat().st_mode & 0o666  # mkdir has applied the umask to it
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextlib.contextmanager
def _sibling(path: Path, folder: bool, key: str | None = None, resume: bool = False) -> Iterator[Path]:
    """A temporary file or folder beside `path`, locked while in use; removed on failure (with a key not on Ctrl-C)."""
    path = path.absolute()
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(path, key or uuid4().hex[:8])
    try:
        partial.mkdir(exist_ok=resume) if folder else partial.touch()
    except FileExistsError:
        raise WsteerError(f"another run is writing {path}; wait for it, or name another output with -o") from None
    with _locked(partial):  # from here on this run owns it, and removes it
        try:
            yield partial
        except KeyboardInterrupt:
            if key is None:
                _remove(partial)
            raise
        except BaseException:
            _remove(partial)
            raise
        finally:
            if not partial.exists():
                for parent in made if not path.exists() else ():
                    parent.rmdir()


def _clear_leftovers(path: Path, kept: str | None = None) -> None:
    """Remove what killed runs left beside `path`, except the folder of the key `kept`.

    An output that such a run had moved aside is moved back.
    """
    path = path.absolute()
    siblings = f".{glob.escape(path.name)}."
    for leftover in path.parent.glob(f"{siblings}*.old"):
        if path.exists():
            _remove(leftover)
        else:
            os.rename(leftover, path)
    for leftover in path.parent.glob(f"{siblings}*.partial"):
        if leftover.name != f".{path.name}.{kept}.partial" and not _in_use(leftover):
            _remove(leftover)


def _in_use(partial: Path) -> bool:
    """Whether a run is using the temporary file or folder; the system frees the lock however a run ends."""
    try:
        with _locked(partial):
            return False
    except (OSError, WsteerError):
        return True


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise WsteerError(f"another run is writing {partial}; wait for it, or name another output with -o") from None
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_free_space(path: Path, needed: int) -> None:
    """Raise if the file system that will hold `path` has fewer than `needed` bytes free."""
    parent = next(p for p in path.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise WsteerError(
            f"{parent} has {free / 1e9:.1f} GB free but {path.name} needs {needed / 1e9:.1f} GB; free some"
        )
