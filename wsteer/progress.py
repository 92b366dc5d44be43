"""How work reports on itself: parameters `track`, which wraps the iterable being worked through, and `note`."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Yields the items unchanged while it shows how far the stage named `label` has come."""

    def __call__(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]: ...


def silent(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """The `Track` that shows nothing: the default everywhere outside the command line."""
    yield from items


class Note(Protocol):
    """Shows a remark that is no result."""

    def __call__(self, text: str) -> None: ...


def unsaid(text: str) -> None:
    """The `Note` that shows nothing: the default everywhere outside the command line."""


def labelled(track: Track, prefix: str) -> Track:
    """`track` with `prefix` before every stage's label, as in `k=1 generate`."""

    def prefixed(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        return track(items, f"{prefix} {label}", total)

    return prefixed
