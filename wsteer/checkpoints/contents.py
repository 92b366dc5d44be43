"""What is read of a model's or adapter's folder: regular files in it, or linked inside it or into the Hub's cache."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from wsteer.errors import WsteerError

_followed: ContextVar[bool] = ContextVar("followed", default=False)
READ_FOLDERS = ("additional_chat_templates",)  # the subfolders that transformers reads


def follow_links(allowed: bool) -> bool:
    """Follow links that lead out of models' folders from here on, as --follow-links asks, or refuse them again."""
    _followed.set(allowed)
    return allowed


@contextlib.contextmanager
def links_followed() -> Iterator[None]:
    """Follow such links inside the `with` body."""
    token = _followed.set(True)
    try:
        yield
    finally:
        _followed.reset(token)


def check_folder(folder: Path, root: Path | None = None) -> None:
    """Refuse a folder whose files would be read from elsewhere, or hang the reader; hidden files are never read.

    `root` is the model's folder if `folder` is a part of it.
    """
    folders = [folder, *(folder / name for name in READ_FOLDERS)]
    for each in folders:
        try:
            paths = sorted(each.iterdir()) if each.is_dir() else []
        except OSError as error:
            raise WsteerError(f"{each} cannot be read: {error.strerror}") from None
        check_files(root or folder, (path for path in paths if not path.name.startswith(".")))


def check_files(root: Path, paths: Iterable[Path]) -> None:
    """Refuse links out of the folder `root`, except into its blobs in the Hub's cache, and pipes and devices."""
    allowed = _allowed(root)
    for path in paths:
        if path.is_symlink() and not _followed.get():
            target = Path(os.path.realpath(path))
            if not any(target.is_relative_to(each) for each in allowed):
                raise WsteerError(
                    f"{path} is a link to {target}, outside of its folder; replace it by the file, or allow it with "
                    "--follow-links"
                )
        try:
            odd = path.exists() and not path.is_file() and not path.is_dir()
        except OSError as error:  # a link to a name that is too long
            raise WsteerError(f"{path} cannot be read: {error.strerror}") from None
        if odd:
            raise WsteerError(f"{path} is a pipe, a socket or a device, not a file of a model; remove it")


def _allowed(root: Path) -> list[Path]:
    """The folders that links may lead into: `root`, and the blobs of its repository if it is in the Hub's cache."""
    real = Path(os.path.realpath(root))
    repositories = [
        each.parent for each in real.parents if each.name == "snapshots" and each.parent.name.startswith("models--")
    ]
    return [real, *(each / "blobs" for each in repositories[:1])]
