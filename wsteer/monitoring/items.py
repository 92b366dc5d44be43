"""What monitor compares: deltas, adapters, checkpoints and training folders of one base, under short names."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.bases import Named, base_warnings, check_bases
from wsteer.deltas.biases import as_biases
from wsteer.deltas.choosing import found_in
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import ChangeInput, checkpoints_in, holds_result, open_change
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import is_stream
from wsteer.files.rows import is_hub_data_set


@dataclass(frozen=True)
class Item:
    """One change of weights (or of activations) to compare. A checkpoint of a training run has its `run` and `step`.

    `name` and `run` are labels; an item is known by its `place`.
    """

    name: str
    input: ChangeInput
    delta: Delta
    run: str | None = None
    step: int | None = None

    @property
    def place(self) -> str:
        """What tells the item from others, whatever their names."""
        return place_of(self.input.reference)


def short_names(paths: Sequence[str]) -> list[str]:
    """Different names for a table: the last part of each path without its suffix, with the parents that are needed.

    Where a file and a folder differ only in the suffix, it is kept.

    >>> short_names(["runs/a/w.safetensors", "runs/b/w.safetensors", "c/v.safetensors"])
    ['a/w', 'b/w', 'v']
    >>> short_names(["w", "w.safetensors", "v.jsonl"])
    ['w', 'w.safetensors', 'v']
    """
    bare = [Path(path.removesuffix(".safetensors").removesuffix(".jsonl")) for path in paths]
    parts = [(Path(path) if bare.count(plain) > 1 else plain).parts for path, plain in zip(paths, bare, strict=True)]
    names = []
    for part in parts:
        depth = 1
        while depth < len(part) and sum(other[-depth:] == part[-depth:] for other in parts) > 1:
            depth += 1
        names.append(str(Path(*part[-depth:])))
    return distinct(names)


def listed(references: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """The references as a list: a path alone is one of them, not the characters of its name."""
    return [references] if isinstance(references, str | Path) else list(references)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number on those that an earlier one has already: a name in a table must mean one thing."""
    made: list[str] = []
    for name in names:
        number = 1
        while (given := name if number == 1 else f"{name}#{number}") in made:
            number += 1
        made.append(given)
    return made


def check_named_once(references: Sequence[str | Path], role: str) -> None:
    """Refuse two references to one thing in one role, under whatever names."""
    places: list[str] = []
    for text in map(str, references):
        if (place := place_of(text)) in places:
            raise WsteerError(f"{text} is named twice ({role}); name each item once")
        places.append(place)


def is_data(reference: str | Path) -> bool:
    """Whether an item is a data set: a JSONL file, packed or not, a pipe, or `org/name[/config]:split` on the Hub."""
    return str(reference).endswith((".jsonl", ".jsonl.gz")) or is_stream(reference) or is_hub_data_set(reference)


def open_items(
    references: Sequence[str | Path],
    role: str,
    names: Mapping[str, str],
    base: Checkpoint | None,
    selection: Selection = EVERYTHING,
) -> list[Item]:
    """The items that the references name; every `checkpoint-<step>` of a training folder is its own item.

    `names` are the short names by place. Raises WsteerError if two references name one thing, as a training folder and
    a checkpoint in it do, and if a checkpoint's base is not given.
    """
    check_named_once(references, role)
    items: list[Item] = []
    for text in map(str, references):
        for path, name, run, step in members(text, names[place_of(text)]):
            items.append(replace(open_item(path, name, role, base, selection), run=run, step=step))
    check_named_once([item.input.reference for item in items], role)
    return items


def place_of(reference: str) -> str:
    """A key that is equal for references to one thing: the resolved path, else the Hub id."""
    return str(Path(reference).resolve()) if Path(reference).exists() else reference


def in_tables(items: Sequence[Item]) -> list[Item]:
    """The items that tables show: of a run only its final result, or else its last checkpoint."""
    ends = {item.run: item for item in items if item.run is not None}  # the last of each run
    return [item for item in items if item.run is None or ends[item.run] is item]


def members(reference: str, name: str) -> Iterator[tuple[str, str, str | None, int | None]]:
    """What one reference stands for, each with its name, run and step: itself, or what a training folder holds.

    That is its checkpoints by step, then the final result in the folder itself, if it is there.
    """
    steps = checkpoints_in(reference)
    for step, path in steps.items():
        yield str(path), step_name(name, path), name, step
    if not steps or holds_result(Path(reference)):
        yield reference, name, name if steps else None, None


def step_name(run: str, path: Path) -> str:
    """The name of one checkpoint of a run."""
    return f"{run}/{path.name}"


def checkpoint_item(
    path: Path, run: str, step: int, role: str, base: Checkpoint | None, selection: Selection = EVERYTHING
) -> Item:
    """One checkpoint of a run."""
    return replace(open_item(str(path), step_name(run, path), role, base, selection), run=run, step=step)


def open_item(reference: str, name: str, role: str, base: Checkpoint | None, selection: Selection = EVERYTHING) -> Item:
    """The change of weights that one reference names, bound to its base if it depends on the base's weights."""
    given = open_change(reference, role, base, selection)
    return Item(name, given, given.delta)


def comparable(items: Sequence[Item], base: Checkpoint | None, selection: Selection = EVERYTHING) -> list[Item]:
    """The selected parts of the items, checked to have one base. If kinds are mixed, activation deltas become biases.

    Raises WsteerError with both names if the fingerprints of two bases differ.
    """
    check_bases(_bases(items, base), "compare changes of one model")
    mixed = len({item.delta.kind == "activation" for item in items}) == 2
    deltas = [as_biases(item.delta) if mixed else item.delta for item in items]
    names = [{*delta.terms, *item.input.left_out} for item, delta in zip(items, deltas, strict=True)]
    exclude = selection.exclude
    excluded = [exclude is not None and bool(found_in(each, exclude, "--exclude")) for each in names]
    if exclude is not None and not any(excluded):
        raise WsteerError(f"--exclude {exclude!r} leaves nothing out: it is found in no name of any item")
    return [
        _selected(item, delta, selection if found else replace(selection, exclude=None), each)
        for item, delta, each, found in zip(items, deltas, names, excluded, strict=True)
    ]


def _bases(items: Sequence[Item], base: Checkpoint | None) -> list[Named]:
    named: list[Named] = [(item.name, item.input.base) for item in items]
    return [*named, (f"--base {base.name}", base.identity)] if base is not None else named


def apart(items: Sequence[Item], base: Checkpoint | None) -> tuple[str, ...]:
    """A warning if the items name different bases."""
    names = [identity["name"] for _, identity in _bases(items, base)]
    return base_warnings(names, "these are one model, the cosines mean nothing")


def _selected(item: Item, delta: Delta, selection: Selection, names: Collection[str]) -> Item:
    try:
        selection.check(names)
    except WsteerError as error:
        raise WsteerError(f"{item.name}: {error}") from None
    return replace(item, delta=delta.part(selection.kept(delta.terms)))
