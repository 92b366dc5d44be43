"""What commands are given, opened as a change of weights or as a checkpoint's own weights."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, fetch, find_shards, open_checkpoint
from wsteer.checkpoints.names import known_names
from wsteer.deltas.adapters.adapter import Adapter, find_adapter, read_adapter
from wsteer.deltas.adapters.reading import CONFIG
from wsteer.deltas.biases import BIAS_PATTERN
from wsteer.deltas.delta import DELTA, Delta, fitted
from wsteer.deltas.pairing import weights_difference
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import digest_of
from wsteer.files.provenance import recordable

CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,15})")


@dataclass(frozen=True)
class _Named:
    """An input: its role, its reference as given, and the files that hold it."""

    role: str
    reference: str
    files: tuple[Path, ...]

    @property
    def path(self) -> str:
        """The input's name in records and messages."""
        return recordable(self.reference)

    @property
    def source(self) -> dict[str, object]:
        """The input's entry in a delta's metadata; its files are read whole for the digest."""
        return {"role": self.role, "path": self.path, "sha256": digest_of(*self.files)}


@dataclass(frozen=True)
class ChangeInput(_Named):
    """A change of weights: an adapter or a delta file. `own_base` is an adapter's base, if it is on this machine.

    `left_out` names what a selection left out of it.
    """

    delta: Delta
    own_base: Checkpoint | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def base(self) -> Mapping[str, str | None]:
        """The base of the change, as delta files name it."""
        return self.delta.base


@dataclass(frozen=True)
class WeightsInput(_Named):
    """A checkpoint's own weights; minus another checkpoint's weights they are a change of weights."""

    checkpoint: Checkpoint

    @property
    def base(self) -> Mapping[str, str | None]:
        """The checkpoint itself, as delta files name a base."""
        return self.checkpoint.identity


Input = ChangeInput | WeightsInput


def open_input(
    reference: str | Path, role: str, base: Checkpoint | None = None, selection: Selection = EVERYTHING
) -> Input:
    """Open `reference`: a delta file or a folder with one, else an adapter, else a checkpoint.

    An adapter is read against `base`, else against its own base if that is on this machine, without what `selection`
    leaves out. Of other inputs `change_of` takes the part.
    """
    path = Path(reference)
    if path.exists() and not path.is_dir():  # a pipe or a device too: reading refuses it
        return ChangeInput(role, str(reference), (path,), Delta.load(path))
    if not path.exists() and path.suffix == ".safetensors":
        raise WsteerError(f"{reference} does not exist")
    folder, _ = fetch(reference)
    if (folder / DELTA).is_file():  # finetune writes it for --method bias, alone
        for other, what in ((CONFIG, "an adapter"), ("config.json", "a whole model")):
            if (folder / other).exists():
                raise WsteerError(
                    f"{reference} holds a delta ({DELTA}) and {what} ({other}); "
                    "put the one meant in a folder of its own"
                )
        return ChangeInput(role, str(reference), (folder / DELTA,), Delta.load(folder / DELTA))
    if (adapter_folder := find_adapter(folder)) is not None:
        if holds_weights(folder):
            raise WsteerError(
                f"{reference} holds an adapter and a whole model; put the one meant in a folder of its own"
            )
        adapter = read_adapter(adapter_folder, base, selection)
        return ChangeInput(
            role, str(reference), (adapter.weights,), adapter_delta(adapter), adapter.checkpoint, adapter.left_out
        )
    if not (folder / "config.json").exists():
        raise WsteerError(f"{reference} is neither an adapter (adapter_config.json) nor a checkpoint (config.json)")
    checkpoint = open_checkpoint(reference)
    return WeightsInput(role, str(reference), tuple(checkpoint.shards), checkpoint)


def holds_weights(folder: Path) -> bool:
    """Whether a whole model is in the folder."""
    try:
        return bool(find_shards(folder))
    except WsteerError:
        return False


def adapter_delta(adapter: Adapter) -> Delta:
    """An adapter as a task vector."""
    return Delta("task_vector", adapter.terms, base=adapter.base, untied=adapter.untied)


def holds_result(folder: Path) -> bool:
    """Whether a training run has left its result in `folder` itself: an adapter, a checkpoint, or a delta of biases."""
    # unlike Path.exists, this says no to a link that cannot be followed
    return any(os.path.exists(folder / name) for name in (CONFIG, "config.json", DELTA))


def seed_folders(reference: str | Path) -> dict[int, Path]:
    """The `seed-N` folders that `finetune --seeds` wrote, by N; empty for anything else."""
    folder = Path(reference)
    if not folder.is_dir() or (holds_result(folder) and not os.path.isfile(folder / DELTA)):
        return {}
    found = {path: re.fullmatch(r"seed-([0-9]{1,15})", path.name) for path in folder.iterdir() if os.path.isdir(path)}
    seeds = sorted((int(match[1]), path) for path, match in found.items() if match)
    if holds_result(folder):
        if seeds:
            raise WsteerError(
                f"{folder} holds a delta ({DELTA}) and seeds ({seeds[0][1].name}); move the one not meant elsewhere"
            )
        return {}
    for (seed, path), (other, again) in itertools.combinations(seeds, 2):
        if seed == other or path.resolve() == again.resolve():
            raise WsteerError(f"{path} and {again.name} are one seed; keep one of them, since a mean counts each once")
    return dict(seeds)


def checkpoints_in(folder: str | Path) -> dict[int, Path]:
    """The folders `checkpoint-<step>` of a training folder, by step in ascending order."""
    path = Path(folder)
    if not path.is_dir():
        return {}
    found: dict[int, Path] = {}
    for each in sorted(path.iterdir()):
        match = CHECKPOINT.fullmatch(each.name)
        if match and os.path.isdir(each):
            step = int(match[1])
            if step in found:
                raise WsteerError(f"{path} holds step {step} twice, {found[step].name} and {each.name}; keep one")
            found[step] = each
    return dict(sorted(found.items()))


def open_change(
    reference: str | Path,
    role: str,
    base: Checkpoint | None = None,
    selection: Selection = EVERYTHING,
    added: "Added | None" = None,
) -> ChangeInput:
    """Open a change of weights of `base`, under the names of its files: what any command takes for a DELTA.

    It is a delta file, an adapter (a checkpoint of a training run too), or a checkpoint, whose change is its weights
    minus those of `base`. Of a folder that `finetune --seeds` wrote the mean is taken. Only what `selection` keeps is
    read, and must fit; `added` are as in `change_of`. Activation vectors are left as they are, and whole. Without
    `base`, names and shapes are not checked.
    """
    if seeds := seed_folders(reference):
        parts = [open_change(path, role, base, selection, added) for path in seeds.values()]
        return ChangeInput(
            role,
            str(reference),
            tuple(itertools.chain.from_iterable(part.files for part in parts)),
            replace(mean([part.delta for part in parts]), kind=parts[0].delta.kind),
            parts[0].own_base,
            frozenset().union(*(part.left_out for part in parts)),
        )
    given = open_input(reference, role, base, selection)
    try:
        delta = change_of(given, base, selection, added)
    except WsteerError as error:
        raise WsteerError(f"{given.path}: {error}") from None
    if delta is None:
        raise WsteerError(
            f"{given.path} is a checkpoint: its change of weights needs --base, the model it was tuned from"
        )
    own_base = given.own_base if isinstance(given, ChangeInput) else None
    if delta.needing_base():
        if (needed := base or own_base) is None:
            raise WsteerError(
                f"{given.path}: {delta.needing_base()[0]} changes as its base's weights tell; give --base"
            )
        delta = delta.bound(needed)
    left_out = set() if selection.is_everything else names_in(given, base) - delta.terms.keys()
    return ChangeInput(role, given.reference, given.files, delta, own_base, frozenset(left_out))


def mean(deltas: Sequence[Delta]) -> Delta:
    """The mean of deltas of one base; of one delta it is the delta itself."""
    if len(deltas) == 1:
        return deltas[0]
    total = sum((delta for delta in deltas[1:]), start=deltas[0])
    return (1 / len(deltas)) * total


Added = Callable[[Delta, Checkpoint], Mapping[str, tuple[int, ...]]]


def change_of(
    given: Input, base: Checkpoint | None, selection: Selection = EVERYTHING, added: Added | None = None
) -> Delta | None:
    """The selected part of the input's change against the base; None for a checkpoint whose base is not given.

    Raises WsteerError if that part does not fit the base. `added` gives the shapes of the parameters that the base may
    lack; by default those are biases that steering can add.
    """
    if isinstance(given, ChangeInput):
        if given.delta.kind == "activation":
            return given.delta
        delta = given.delta
        if not selection.is_everything:
            called = called_in(base, delta.terms)
            kept = set(selection.kept(called.values(), base))
            delta = delta.part([name for name in called if called[name] in kept])
        return delta if base is None else fitted(delta, base, (added or missing_biases)(delta, base))
    if base is None:
        return None
    change = weights_difference(given.checkpoint, given.path, base, base.name, selection)
    return replace(change.part(selection.kept(change.terms, base)), kind="task_vector", base=base.identity)


def missing_biases(delta: Delta, base: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of the delta's biases of `mlp.down_proj` that the base lacks."""
    return {
        name: delta.shape(name) for name in delta.terms if BIAS_PATTERN.fullmatch(name) and name not in base.tensors
    }


def called_in(base: Checkpoint | None, names: Iterable[str]) -> dict[str, str]:
    """What the base's files call each parameter; one that they lack keeps its name, and so do all without a base."""
    own = {name: name for name in names}
    return own if base is None else own | known_names(own, base)


def names_in(given: Input, base: Checkpoint | None) -> set[str]:
    """The names of all parameters that an input changes, also of those that a selection leaves out."""
    if isinstance(given, WeightsInput):
        return set(given.checkpoint.parameters())
    return {*called_in(base, given.delta.terms).values(), *given.left_out}
