"""One input of diff or monitor, opened as a change of weights or as a checkpoint's own weights."""

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, fetch, find_shards, open_checkpoint
from wsteer.deltas.adapters.adapter import Adapter, find_adapter, read_adapter
from wsteer.deltas.adapters.reading import CONFIG
from wsteer.deltas.biases import BIAS_PATTERN
from wsteer.deltas.delta import DELTA, Delta, fitted
from wsteer.deltas.pairing import weights_difference
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import digest_of
from wsteer.files.provenance import recordable


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
    """A change of weights: an adapter or a delta file. `own_base` is an adapter's base, if it is on this machine."""

    delta: Delta
    own_base: Checkpoint | None = None

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


def open_input(reference: str | Path, role: str, base: Checkpoint | None = None) -> Input:
    """Open `reference`: a delta file or a folder with one, else an adapter, else a checkpoint.

    An adapter is read against `base`, else against its own base if that is on this machine.
    """
    path = Path(reference)
    if path.is_file():
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
        if _holds_weights(folder):
            raise WsteerError(
                f"{reference} holds an adapter and a whole model; put the one meant in a folder of its own"
            )
        adapter = read_adapter(adapter_folder, base)
        return ChangeInput(role, str(reference), (adapter.weights,), adapter_delta(adapter), adapter.checkpoint)
    if not (folder / "config.json").exists():
        raise WsteerError(f"{reference} is neither an adapter (adapter_config.json) nor a checkpoint (config.json)")
    checkpoint = open_checkpoint(reference)
    return WeightsInput(role, str(reference), tuple(checkpoint.shards), checkpoint)


def _holds_weights(folder: Path) -> bool:
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


def change_of(given: Input, base: Checkpoint | None, selection: Selection = EVERYTHING) -> Delta | None:
    """The input's change against the base; None for a checkpoint whose base is not given.

    What `selection` leaves out need not fit, and is in the change all the same.
    """
    if isinstance(given, ChangeInput):
        if base is None or given.delta.kind == "activation":
            return given.delta
        missing = [name for name in given.delta.terms if BIAS_PATTERN.fullmatch(name) and name not in base.tensors]
        return fitted(given.delta, base, {name: given.delta.shape(name) for name in missing})
    if base is None:
        return None
    return weights_difference(given.checkpoint, given.path, base, base.name, selection)
