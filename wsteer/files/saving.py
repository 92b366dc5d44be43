"""Write files and folders whole or not at all: a temporary sibling first, flushed to disk, then a rename.

Nothing that wsteer did not write is ever replaced or removed, and no work that a run could go on with.
"""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from wsteer.errors import Interrupted, WsteerError, out_of_memory, reason
from wsteer.files.flushing import PARTIAL, flush_folder, flush_names, flushing, replace_json
from wsteer.files.provenance import (
    RECORD,
    in_utf8,
    is_answers,
    is_delta_file,
    is_export,
    is_page,
    is_picture,
    list_files,
    listed_files,
)

OLD = ".wsteer.old"  # as PARTIAL the end of our temporary names; a user's own files have others
WORK = ".wsteer-work"  # a file that marks a temporary folder as one that --resume can go on with
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


# ---- What may be written


def check_output(
    path: Path, force: bool, folder: bool, inputs: Iterable[str | Path] = (), resume: bool = False
) -> None:
    """Refuse an output that exists (unless `force`), cannot be made, or is part of the `inputs` or holds one.

    Called before any work begins. With `force` only what wsteer wrote is replaced: a delta file, a report, answers, or
    a folder that holds nothing but the files that its record lists. The work of an interrupted run is refused too,
    unless the run goes on with it (`resume`) or may drop it (`force`).
    """
    for given in inputs:
        check_input(path, Path(given))
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        raise WsteerError(f"the umask {mask:03o} keeps you out of your own new files; set another, as with umask 022")
    longest = os.pathconf(_standing(path), "PC_NAME_MAX")
    if (excess := len(os.fsencode(partial_folder(path, "0" * 12).name)) - longest) > 0:
        raise WsteerError(f"the name of output {path} is too long; shorten it by {excess} bytes")
    if not path.is_symlink() and not path.exists():
        parent = _standing(path)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise WsteerError(f"cannot write {path}: {parent} is not a folder you may write to")
    elif not force:
        raise WsteerError(f"output {path} exists; name another with -o, or replace it with --force")
    else:
        _check_replaceable(path, folder)
    if not resume and not force and (kept := kept_work(path)):
        raise WsteerError(f"an interrupted run into {path} left its work in {_shown(kept[0])}: {_go_on()}")


def _standing(path: Path) -> Path:
    """The nearest folder above `path` that exists; the root is its own."""
    return next((parent for parent in path.absolute().parents if parent.exists()), path)


def check_input(path: Path, given: Path) -> None:
    """Refuse an output that is the input, holds it, or is a file in it."""
    if not path.exists() or not given.exists():
        return
    output, read = path.resolve(), given.resolve()
    if read.is_relative_to(output):
        raise WsteerError(f"output {path} is the input {given} or holds it; name another output with -o")
    if path.is_file() and output.is_relative_to(read):
        raise WsteerError(f"output {path} is part of the input {given}; name another output with -o")


def _check_replaceable(path: Path, folder: bool) -> None:
    """Refuse to replace what wsteer did not write."""
    if Path.cwd().is_relative_to(path.resolve()):
        raise WsteerError(f"output {path} is the folder you are in; name a new one with -o")
    if not (path.is_dir() if folder else path.is_file()):
        raise WsteerError(f"output {path} is not a {'folder' if folder else 'file'}, which would replace it; remove it")
    if not folder:
        known = (is_delta_file, is_page, is_answers, is_picture, is_export)
        if path.stat().st_size and not any(each(path) for each in known):
            raise WsteerError(
                f"output {path} is not a delta file, report, picture or answers that wsteer wrote; remove it yourself"
            )
        return
    if _in_use(path):
        raise WsteerError(f"another run is writing {path}; wait for it, or name another output with -o")
    if not (path / RECORD).is_file():
        if any(path.iterdir()):
            raise WsteerError(f"output {path} is a folder that wsteer did not write (no {RECORD}); remove it yourself")
        return
    ours = listed_files(path)
    for each in _files_in(path):
        if each not in ours and not _is_temporary(each):
            raise WsteerError(f"output {path} also holds {each}, which {RECORD} does not list; move or remove it")


def _files_in(folder: Path) -> list[str]:
    """All files and links in the folder, by their path in it, sorted."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(in_utf8(str(path.relative_to(folder))) for path in found)


def _is_temporary(name: str) -> bool:
    """Whether a file in a folder that grows is under one of our temporary names, as an interrupted run leaves it."""
    return any(part.startswith(".") and part.endswith((PARTIAL, OLD)) for part in Path(name).parts)


def check_free_space(path: Path, needed: int) -> None:
    """Raise if the file system that will hold `path` has fewer than `needed` bytes free."""
    parent = _standing(path)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise WsteerError(
            f"{parent} has {free / 1e9:.1f} GB free but {path.name} needs {needed / 1e9:.1f} GB; free some"
        )


# ---- Writing


@contextlib.contextmanager
def new_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on any failure it is removed.

    A file that has appeared at `path` meanwhile is left as it is: the result then gets another name, and a WsteerError
    says so.
    """
    _clear_leftovers(path, force)
    check_output(path, force, folder=False)
    with _sibling(path, folder=False) as partial:
        with partial.open("rb") as file, flushing([file.fileno()]):
            yield partial
        _publish(partial, path, force, folder=False)
        flush_names(path.absolute().parent)


@contextlib.contextmanager
def new_folder(path: Path, force: bool = False, key: str | None = None, resume: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it becomes `path`, on any failure it is removed.

    With a `key`, which identifies what is written, a folder that is marked by `mark_work` stays when the run fails or
    is interrupted, and the error says where it is. The next run with the same key gets it unchanged if `resume` is set.
    Raises WsteerError if another run's work is there, unless `force` may drop it; and if something has appeared at
    `path` meanwhile: the result then gets another name.
    """
    _clear_leftovers(path, force, key if resume else None)
    check_output(path, force, folder=True, resume=resume)
    with _sibling(path, folder=True, key=key, resume=resume) as partial:
        yield partial
        list_files(partial, [name for name in _files_in(partial) if name != WORK])
        _apply_umask(partial)
        flush_folder(partial)
        (partial / WORK).unlink(missing_ok=True)
        _publish(partial, path, force, folder=True)
        flush_names(path.absolute().parent)


@contextlib.contextmanager
def growing_folder(
    path: Path, force: bool, record: Mapping[str, object], names: Sequence[str], resume: bool = False
) -> Iterator[None]:
    """Make the folder `path`, which grows under its own name during the `with` body and stays, whatever happens.

    Its record lists `names`, the files that it may get. With `resume` a folder that has a record stays, and grows on;
    the caller has checked that it is the same. For as long as the body runs no other run can replace it.
    """
    if not (resume and (path / RECORD).is_file()):
        check_output(path, force, folder=True)
        if path.exists():
            _remove(path)
        path.mkdir(parents=True)
    with locked(path):
        replace_json(path / RECORD, {**record, "files": sorted(names)})
        yield


def partial_folder(path: Path, key: str) -> Path:
    """The temporary folder in which `new_folder` writes what becomes `path`."""
    return path.absolute().parent / f".{path.name}.{key}{PARTIAL}"


def mark_work(partial: Path) -> None:
    """Mark the temporary folder as one that holds work, for `--resume` to go on with."""
    (partial / WORK).touch()


def _publish(partial: Path, path: Path, force: bool, folder: bool) -> None:
    """Give the finished file or folder its name, which it never takes from something that appeared meanwhile."""
    with contextlib.suppress(WsteerError, FileExistsError, NotADirectoryError):
        if force and (path.exists() or path.is_symlink()):
            _check_replaceable(path, folder)  # again: it may be another than at the start
            _swap(partial, path) if folder else os.replace(partial, path)
        else:
            _named(partial, path, folder)
        return
    for number in range(1, 1000):
        other = path.with_name(f"{path.stem}-{number}{path.suffix}")
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _named(partial, other, folder)
            raise WsteerError(f"{path} appeared while this run wrote it, and was left as it is; the result is {other}")
    raise WsteerError(f"{path} appeared while this run wrote it, and no other name was free")


def _named(partial: Path, path: Path, folder: bool) -> None:
    """Rename `partial` to `path`; FileExistsError or NotADirectoryError if that is more than an empty folder."""
    try:
        if folder:
            os.rename(partial, path)  # fails on everything but an empty folder
            return
        os.link(partial, path)  # a rename would replace a file
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError from None
        if folder or error.errno not in NO_LINKS:
            raise
        if path.exists() or path.is_symlink():
            raise FileExistsError from None
        os.rename(partial, path)
    else:
        partial.unlink()


def _swap(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`; the existing `path` is moved aside first, and back on any failure."""
    old = partial.with_name(partial.name.removesuffix(PARTIAL) + OLD)
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


# ---- Temporary siblings


class _WorkKept(WsteerError):
    """A failure that left work for --resume, and says where."""


@contextlib.contextmanager
def _sibling(path: Path, folder: bool, key: str | None = None, resume: bool = False) -> Iterator[Path]:
    """A temporary file or folder beside `path`, locked while in use; removed on failure unless it holds work."""
    path = path.absolute()
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(path, key or uuid4().hex[:8])
    try:
        partial.mkdir(exist_ok=resume) if folder else partial.touch()
    except FileExistsError:
        raise WsteerError(f"another run is writing {path}; wait for it, or name another output with -o") from None
    with locked(partial):  # from here on this run owns it, and removes it
        try:
            yield partial
        except BaseException as error:
            if key is not None and _holds_work(partial):
                told = _with_work(error, partial)
            else:
                _remove(partial)
                told = without_work(_explained(error, path))
            if told is error:
                raise
            raise told from error
        finally:
            if not partial.exists() and not path.exists():
                with contextlib.suppress(OSError):  # another run may use them meanwhile
                    for parent in made:
                        parent.rmdir()


def _explained(error: BaseException, path: Path) -> BaseException:
    """The error itself, or one line if a library reports in its own way that the disk is full or may not be written."""
    failed_write = type(error).__name__ == "SafetensorError" or (  # by name: importing the library takes long
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in ("PytorchStreamWriter", "iostream"))
    )
    return WsteerError(f"cannot write {path}: {reason(error)}; is the disk full?") if failed_write else error


def _with_work(error: BaseException, partial: Path) -> BaseException:
    """The error with a word on the work that stays; a bug's own traceback is unchanged."""
    error = _explained(error, partial)
    kept = f"the work so far is kept in {_shown(partial)}: {_go_on()}"
    if isinstance(error, _WorkKept | Interrupted):
        error = without_work(error)  # the work of a folder inside this one
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"{str(error) or 'interrupted'}; {kept}")
    if out_of_memory(error):
        return _WorkKept(f"out of memory ({reason(error)}); lower --micro-batch-size; {kept}")
    return _WorkKept(f"{error}; {kept}") if isinstance(error, WsteerError | OSError) else error


def without_work(error: BaseException) -> BaseException:
    """The error without its word on work in a folder that does not stay, or that is named as a part of another's."""
    return (error.__cause__ or error) if isinstance(error, _WorkKept | Interrupted) else error


def _go_on() -> str:
    return "go on with the same command and --resume, or drop it with --force"


def _shown(partial: Path) -> str:
    size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    return f"{partial} ({size / 1e6:.1f} MB)"


def _holds_work(partial: Path) -> bool:
    return partial.is_dir() and any(partial.rglob(WORK))


def _leftovers(path: Path, end: str) -> list[Path]:
    """What runs into `path` have under temporary names."""
    return sorted(path.absolute().parent.glob(f".{glob.escape(path.name)}.*{end}"))


def kept_work(path: Path) -> list[Path]:
    """The temporary folders of interrupted runs into `path` that hold work."""
    return [partial for partial in _leftovers(path, PARTIAL) if _holds_work(partial) and not _in_use(partial)]


def _clear_leftovers(path: Path, force: bool, kept: str | None = None) -> None:
    """Remove what killed runs left beside `path`, except work (with `force` that too) and the folder of the key `kept`.

    An output that such a run had moved aside is moved back. Raises WsteerError if a run is writing `path` now, or work
    of other options would be lost.
    """
    path = path.absolute()
    for leftover in _leftovers(path, OLD):
        if path.exists():
            _remove(leftover)
        else:
            os.rename(leftover, path)
    for leftover in _leftovers(path, PARTIAL):
        if _in_use(leftover):
            raise WsteerError(f"another run is writing {path}; wait for it, or name another output with -o")
        if kept is not None and leftover == partial_folder(path, kept):
            continue
        if _holds_work(leftover) and not force:
            raise WsteerError(
                f"an interrupted run into {path} with other options, inputs or versions left its work in "
                f"{_shown(leftover)}: repeat that command with --resume, or drop it with --force"
            )
        _remove(leftover)


def _in_use(partial: Path) -> bool:
    """Whether a run is using the temporary file or folder; the system frees the lock however a run ends."""
    try:
        with locked(partial):
            return False
    except (OSError, WsteerError):
        return True


@contextlib.contextmanager
def locked(partial: Path) -> Iterator[None]:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WsteerError(f"another run is writing {partial}; wait for it, or name another output") from None
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder, also one whose folders may not be written."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder in (path, *(each for each in path.rglob("*") if each.is_dir() and not each.is_symlink())):
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o700)
    shutil.rmtree(path)
