"""What monitor compares: deltas, adapters, checkpoints and training folders of one base, under short names."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.biases import as_biases
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import ChangeInput, Input, change_of, holds_result, open_input
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import is_stream
from wsteer.files.rows import is_hub_data_set

CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,15})")


@dataclass(frozen=True)
class Item:
    """One change of weights (or of activations) to compare. A checkpoint of a training run has its `run` and `step`."""

    name: str
    input: Input
    delta: Delta
    run: str | None = None
    step: int | None = None


def short_names(paths: Sequence[str]) -> list[str]:
    """Names for a table: the last part of each path without `.safetensors`, with enough parents to make it unique.

    >>> short_names(["runs/a/w.safetensors", "runs/b/w.safetensors", "c/v.safetensors"])
    ['a/w', 'b/w', 'v']
    """
    parts = [Path(path.removesuffix(".safetensors")).parts for path in paths]
    names = []
    for part in parts:
        depth = 1
        while depth < len(part) and sum(other[-depth:] == part[-depth:] for other in parts) > 1:
            depth += 1
        names.append("/".join(part[-depth:]))
    return names


def is_data(reference: str | Path) -> bool:
    """Whether an item is a data set: a JSONL file, packed or not, a pipe, or `org/name:split` on the Hub."""
    return str(reference).endswith((".jsonl", ".jsonl.gz")) or is_stream(reference) or is_hub_data_set(reference)


def open_items(
    references: Sequence[str | Path], role: str, names: Mapping[str, str], base: Checkpoint | None
) -> list[Item]:
    """The items that the references name; every `checkpoint-<step>` of a training folder is its own item.

    `names` are the references' short names. Raises WsteerError if two references name one thing, and if a checkpoint's
    base is not given.
    """
    places: list[str] = []
    items: list[Item] = []
    for text in map(str, references):
        if (place := place_of(text)) in places:
            raise WsteerError(f"{text} is named twice ({role}); name each item once")
        places.append(place)
        run = checkpoints_in(text)
        items += open_run(text, names[text], role, base) if run else [open_item(text, names[text], role, base)]
    return items


def place_of(reference: str) -> str:
    """A key that is equal for references to one thing: the resolved path, else the Hub id."""
    return str(Path(reference).resolve()) if Path(reference).exists() else reference


def in_tables(items: Sequence[Item]) -> list[Item]:
    """The items that tables show: of a run only its final result, or else its last checkpoint."""
    ends = {item.run: item for item in items if item.run is not None}  # the last of each run
    return [item for item in items if item.run is None or ends[item.run] is item]


def checkpoints_in(folder: str | Path) -> dict[int, Path]:
    """The folders `checkpoint-<step>` of a training folder, by step in ascending order."""
    path = Path(folder)
    if not path.is_dir():
        return {}
    found = {int(match[1]): each for each in path.iterdir() if (match := CHECKPOINT.fullmatch(each.name))}
    return {step: found[step] for step in sorted(found) if os.path.isdir(found[step])}


def open_run(folder: str, name: str, role: str, base: Checkpoint | None) -> list[Item]:
    """A training folder's checkpoints by step, then the final result in the folder itself, if it is there."""
    steps = checkpoints_in(folder).items()
    items = [checkpoint_item(path, name, step, role, base) for step, path in steps]
    if holds_result(Path(folder)):
        items.append(replace(open_item(folder, name, role, base), run=name))
    return items


def checkpoint_item(path: Path, run: str, step: int, role: str, base: Checkpoint | None) -> Item:
    """One checkpoint of a run."""
    return replace(open_item(str(path), f"{run}/{path.name}", role, base), run=run, step=step)


def open_item(reference: str, name: str, role: str, base: Checkpoint | None) -> Item:
    """The change of weights that one reference names, bound to its base if it depends on the base's weights."""
    given = open_input(reference, role, base)
    return Item(name, given, bound_change(given, base))


def bound_change(given: Input, base: Checkpoint | None) -> Delta:
    """The input's change of weights, bound to its base if it depends on the base's weights."""
    try:
        delta = change_of(given, base)
    except WsteerError as error:
        raise WsteerError(f"{given.path}: {error}") from None
    if delta is None:
        raise WsteerError(
            f"{given.path} is a checkpoint: its change of weights needs --base, the model it was tuned from"
        )
    if delta.needing_base():
        needed = base or (given.own_base if isinstance(given, ChangeInput) else None)
        if needed is None:
            raise WsteerError(
                f"{given.path}: {delta.needing_base()[0]} changes as its base's weights tell; give --base"
            )
        delta = delta.bound(needed)
    return delta


def comparable(items: Sequence[Item], base: Checkpoint | None, selection: Selection = EVERYTHING) -> list[Item]:
    """The selected parts of the items, checked to have one base. If kinds are mixed, activation deltas become biases.

    Raises WsteerError with both names if the fingerprints of two bases differ.
    """
    # checkpoints have been compared with `base` already
    known = [(item.name, item.input.base) for item in items if isinstance(item.input, ChangeInput)]
    if base is not None:
        known.append((f"--base {base.name}", base.identity))
    seen = [(name, identity) for name, identity in known if identity.get("fingerprint")]
    for name, identity in seen[1:]:
        if identity["fingerprint"] != seen[0][1]["fingerprint"]:
            raise WsteerError(
                f"{seen[0][0]} (of {seen[0][1]['name']}) and {name} (of {identity['name']}) have different bases; "
                "compare changes of one model"
            )
    mixed = len({item.delta.kind == "activation" for item in items}) == 2
    return [_selected(item, as_biases(item.delta) if mixed else item.delta, selection) for item in items]


def _selected(item: Item, delta: Delta, selection: Selection) -> Item:
    try:
        part = delta.select_layers(selection.layers).select_names(selection.include, selection.exclude)
    except WsteerError as error:
        raise WsteerError(f"{item.name}: {error}") from None
    return replace(item, delta=part)
