"""Which parameters a selection chooses, by their names alone: layers, and regexes that are searched in them."""

import re
from collections.abc import Collection, Iterable, Sequence

from wsteer.checkpoints.names import layer_of, likely_path
from wsteer.errors import WsteerError
from wsteer.files.limits import MATCHING, bounded


def in_layers(names: Collection[str], layers: Iterable[int] | None, blocks: str | None = None) -> list[str]:
    """The names of parameters in these decoder blocks (0-based); None means all names.

    `blocks` is the path of the blocks in the names; if it is None, the names tell it.
    """
    if layers is None:
        return list(names)
    wanted, blocks = set(layers), blocks or likely_path(names)
    return [name for name in names if layer_of(name, blocks) in wanted]


def found_in(names: Iterable[str], pattern: str, option: str) -> set[str]:
    """The names in which the regex is found; `option` is what an error about the regex names."""
    with bounded(f"matching {option}", MATCHING):
        return {name for name in names if _found(pattern, name, option)}


def matching(names: Iterable[str], include: str | None = None, exclude: str | None = None) -> list[str]:
    """The names in which `include` is found and `exclude` is not; it may be none of them."""
    kept = list(names)
    if include is not None:
        found = found_in(kept, include, "--include")
        kept = [name for name in kept if name in found]
    if exclude is not None:
        found = found_in(kept, exclude, "--exclude")
        kept = [name for name in kept if name not in found]
    return kept


def check_layers(names: Collection[str], layers: Sequence[int] | None, blocks: str | None = None) -> None:
    """Refuse a decoder block in which none of the names is."""
    if layers is None:
        return
    blocks = blocks or likely_path(names)
    found = {layer for name in names if (layer := layer_of(name, blocks)) is not None}
    if missing := set(layers) - found:
        held = f"it changes blocks {min(found)} to {max(found)}" if found else "it changes no block"
        listed = f"{sorted(missing)[:8]}" + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise WsteerError(f"--layers: the delta has nothing in {listed}; {held}")


def check_matching(names: Collection[str], include: str | None, exclude: str | None) -> None:
    """Refuse a regex that leaves nothing out, and regexes that leave nothing."""
    if not names or (include is None and exclude is None):
        return
    example = next(iter(names))
    if exclude is not None and not found_in(names, exclude, "--exclude"):
        raise WsteerError(f"--exclude {exclude!r} leaves nothing out of the delta, whose names are like {example!r}")
    if not matching(names, include, exclude):
        raise WsteerError(f"--include and --exclude leave nothing of the delta, whose names are like {example!r}")


def _found(pattern: str, name: str, option: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except (re.error, OverflowError) as error:
        raise WsteerError(f"{option} {pattern!r} is no regular expression: {error}") from None


def ranges(numbers: Iterable[int]) -> str:
    """Blocks in the form that --layers takes.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
