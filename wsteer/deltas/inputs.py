"""One input of diff or monitor: what a reference names, as a change of weights or as a checkpoint's own weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, fetch, open_checkpoint
from wsteer.deltas.adapters.adapter import find_adapter, read_adapter
from wsteer.deltas.adapters.reading import CONFIG
from wsteer.deltas.biases import BIAS_PATTERN
from wsteer.deltas.delta import DELTA, Delta, fitted
from wsteer.deltas.terms import Dense
from wsteer.errors import WsteerError
from wsteer.files.provenance import recordable, sha256
from wsteer.files.tensors import FLOATS


@dataclass(frozen=True)
class Side:
    """An input: a change of weights (adapter or delta file), or a checkpoint's weights themselves.

    `own_base` is the base of an adapter, where it is on this machine.
    """

    role: str
    reference: str
    delta: Delta | None
    checkpoint: Checkpoint | None
    files: tuple[Path, ...]
    own_base: Checkpoint | None = None

    @property
    def path(self) -> str:
        """The input as records and messages name it."""
        return recordable(self.reference)

    @property
    def base(self) -> Mapping[str, str | None]:
        """The base of the change, or the checkpoint's own identity."""
        return self.delta.base if self.delta else self.checkpoint.identity

    @property
    def source(self) -> dict[str, object]:
        """The input as a delta's metadata lists it; reads its files whole for their digest."""
        return {"role": self.role, "path": self.path, "sha256": sha256(*self.files)}


def open_side(reference: str | Path, role: str, base: Checkpoint | None = None) -> Side:
    """What `reference` names, by what lies there: a delta file or a folder with one, an adapter, else a checkpoint.

    An adapter is read against `base`, else against its own base where that is on this machine.
    """
    path = Path(reference)
    if path.is_file():
        return Side(role, str(reference), Delta.load(path), None, (path,))
    if not path.exists() and path.suffix == ".safetensors":
        raise WsteerError(f"{reference} does not exist")
    folder, _ = fetch(reference)
    if (folder / DELTA).is_file():  # what finetune writes for biases alone
        return Side(role, str(reference), Delta.load(folder / DELTA), None, (folder / DELTA,))
    if (adapter_folder := find_adapter(folder)) is not None:
        adapter = read_adapter(adapter_folder, base)
        delta = Delta("task_vector", adapter.terms, base=adapter.base, untied=adapter.untied)
        return Side(role, str(reference), delta, None, (adapter.weights,), adapter.checkpoint)
    if not (folder / "config.json").exists():
        raise WsteerError(f"{reference} is neither an adapter (adapter_config.json) nor a checkpoint (config.json)")
    checkpoint = open_checkpoint(reference)
    return Side(role, str(reference), None, checkpoint, tuple(checkpoint.shards))


def seed_folders(reference: str | Path) -> dict[int, Path]:
    """The `seed-N` folders of what `finetune --seeds` wrote, by N; empty for anything else."""
    folder = Path(reference)
    if not folder.is_dir() or any((folder / name).exists() for name in (CONFIG, "config.json", DELTA)):
        return {}
    found = {path: re.fullmatch(r"seed-(\d+)", path.name) for path in folder.iterdir() if path.is_dir()}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def change_of(side: Side, base: Checkpoint | None) -> Delta | None:
    """The side's change against the base; None for a checkpoint whose base is not given."""
    if side.delta:
        if base is None or side.delta.kind == "activation":
            return side.delta
        missing = [name for name in side.delta.terms if BIAS_PATTERN.fullmatch(name) and name not in base.tensors]
        return fitted(side.delta, base, {name: side.delta.shape(name) for name in missing})
    if base is None:
        return None
    mine = weights_of(side.checkpoint, side.path, base, base.name)
    return mine - weights_of(base, base.name, side.checkpoint, side.path)


def weights_of(checkpoint: Checkpoint, path: str, other: Checkpoint, other_path: str) -> Delta:
    """A checkpoint's own weights as dense terms, checked to match the other's name by name and shape by shape."""
    mine, theirs = checkpoint.parameters(), other.parameters()
    for name, entry in mine.items():
        if name not in theirs:
            raise WsteerError(f"{other_path} lacks {name!r}, which {path} has; the two must be of one model")
        if theirs[name].shape != entry.shape:
            raise WsteerError(
                f"{name} is {entry.shape} in {path} but {theirs[name].shape} in {other_path}; the bases differ"
            )
    return Delta("combination", {name: ((1.0, Dense(entry)),) for name, entry in mine.items() if entry.dtype in FLOATS})
