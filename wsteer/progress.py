"""How work reports: the parameters `progress`, which wraps the items that are worked on, and `note`."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Yields the items unchanged while it shows how far the stage named `label` has come."""

    def __call__(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]: ...


def silent(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The `Progress` that shows nothing: the default everywhere outside the command line."""
    yield from items


class Note(Protocol):
    """Shows a remark beside the result."""

    def __call__(self, text: str) -> None: ...


def unsaid(text: str) -> None:
    """The `Note` that shows nothing: the default everywhere outside the command line."""


def labelled(progress: Progress, prefix: str) -> Progress:
    """`progress` with `prefix` before every stage's label, as in `k=1 generate`."""

    def prefixed(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        return progress(items, f"{prefix} {label}", total)

    return prefixed
