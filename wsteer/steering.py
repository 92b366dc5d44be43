"""base + k·delta as a checkpoint, streamed: the base's own files, with the touched rows rewritten in place."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from torch import Tensor

from wsteer.checkpoint import Checkpoint, TensorEntry, open_checkpoint, read_rows, row_blocks
from wsteer.delta import Change, Delta, check_fits, folded
from wsteer.errors import WsteerError
from wsteer.progress import Track, silent
from wsteer.saving import RECORD, check_free_space, check_output, new_folder, record, source_entry, write_json
from wsteer.tensorfile import write_at

LOW_GAIN = 0.95
# weights in formats that wsteer does not steer would stay as they were, and some loaders prefer them
STALE = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class SteerReport:
    """What `steer` wrote. `gain` is <written change, intended change> / |intended change|², None where k is 0."""

    output: str
    outputs: tuple[str, ...]
    k: tuple[float, ...]
    parameters_total: int
    parameters_changed: int
    bytes: int
    rounding: str
    gain: float | None
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class Gain:
    """Sums the written change against the intended one, in float64."""

    dot: float = 0.0
    square: float = 0.0

    def add(self, base: Tensor, written: Tensor, change: Tensor) -> None:
        """Count one block of rows."""
        intended = change.double()
        self.dot += float(((written.double() - base.double()) * intended).sum())
        self.square += float((intended * intended).sum())

    @property
    def value(self) -> float | None:
        """<written, intended> / |intended|², None where nothing was intended."""
        return self.dot / self.square if self.square else None


def steer(
    base: str | Path,
    deltas: str | Path | Sequence[str | Path],
    k: float | Sequence[float],
    output: str | Path | None = None,
    *,
    force: bool = False,
    track: Track = silent,
) -> SteerReport:
    """Write the checkpoint `base + Σ kᵢ·deltaᵢ` to the folder `output` (default `./<base>-<delta>-k<K>`).

    One k for all deltas, or one for each. Every touched tensor is folded in float32 and rounded once, to nearest, to
    the dtype it is stored in; shards keep the base's files, order and offsets, and other files are copied byte for
    byte. Raises WsteerError, before anything is written, where a delta names what the base lacks.

    >>> import tempfile, torch, wsteer
    >>> from pathlib import Path
    >>> from safetensors.torch import load_file, save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "base").mkdir()
    >>> bytes_written = (folder / "base" / "config.json").write_text("{}")
    >>> save_file({"w": torch.tensor([1.0, 2.0])}, folder / "base" / "model.safetensors")
    >>> wsteer.Delta.of_tensors({"w": torch.tensor([10.0, 0.0])}).save(folder / "d.safetensors")
    >>> report = wsteer.steer(folder / "base", folder / "d.safetensors", k=-1.5, output=folder / "out")
    >>> load_file(folder / "out" / "model.safetensors")["w"].tolist()
    [-14.0, 2.0]
    """
    paths = [Path(path) for path in ([deltas] if isinstance(deltas, str | Path) else deltas)]
    ks = _spread([float(k)] if isinstance(k, int | float) else [float(each) for each in k], len(paths))
    checkpoint = open_checkpoint(base)
    folder = Path(output) if output is not None else default_output(checkpoint, paths, ks)
    check_output(folder, force, folder=True, inputs=[checkpoint.folder, *paths])
    if folder.resolve().is_relative_to(checkpoint.folder.resolve()):
        raise WsteerError(f"output {folder} lies inside the base {base}; name another with -o")
    combined = _combined([_fitting(path, checkpoint) for path in paths], ks)
    size = sum(shard.stat().st_size for shard in checkpoint.shards)
    check_free_space(folder, size)
    others, left_out = _other_files(checkpoint)
    gain = Gain()
    with new_folder(folder, force) as partial:
        for name in others:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.folder / name, partial / name)
        for shard in checkpoint.shards:
            entries = [entry for entry in checkpoint.tensors.values() if entry.file == shard]
            _steer_shard(shard, partial / shard.name, entries, combined, gain, track)
        write_json(partial / RECORD, _record(checkpoint, paths, ks))
    return SteerReport(
        output=str(folder),
        outputs=(str(folder),),
        k=tuple(ks),
        parameters_total=len(checkpoint.tensors),
        parameters_changed=len(combined.terms) if combined else 0,
        bytes=size,
        rounding="nearest",
        gain=gain.value,
        left_out=tuple(left_out),
        warnings=_warnings(gain.value, left_out),
    )


def default_output(checkpoint: Checkpoint, deltas: Sequence[Path], ks: Sequence[float]) -> Path:
    """`./<base>-<delta>-k<K>`, in the current folder: as in `./SmolLM2-w-k-1.5`."""
    numbers = [repr(k).removesuffix(".0") for k in (ks if len(set(ks)) > 1 else ks[:1])]
    return Path("-".join([Path(checkpoint.name).name, *(path.stem for path in deltas), "k" + ",".join(numbers)]))


def _spread(ks: list[float], count: int) -> list[float]:
    if len(ks) not in (1, count):
        raise WsteerError(f"{len(ks)} values of --k for {count} deltas; give one for all or one for each")
    return ks * count if len(ks) == 1 else ks


def _fitting(path: Path, checkpoint: Checkpoint) -> Delta:
    delta = Delta.load(path)
    if delta.kind == "activation":
        raise WsteerError("an activation vector changes no weights; apply it while generating: wsteer eval --delta")
    check_fits(delta, checkpoint)
    return delta


def _combined(deltas: Sequence[Delta], ks: Sequence[float]) -> Delta | None:
    """Σ kᵢ·deltaᵢ; a delta with k = 0 takes no part, so that the base's bytes stay as they are."""
    scaled = [k * delta for k, delta in zip(ks, deltas, strict=True) if k != 0]
    return reduce(lambda a, b: a + b, scaled) if scaled else None


def _other_files(checkpoint: Checkpoint) -> tuple[list[Path], list[str]]:
    """The base's files besides its shards: those to copy, and the weights in other formats that are left out."""
    copied, left_out = [], []
    for path in sorted(checkpoint.folder.rglob("*")):
        name = path.relative_to(checkpoint.folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or path in checkpoint.shards or not path.is_file() or str(name) == RECORD:
            continue
        if path.suffix in STALE:
            left_out.append(str(name))
        else:
            copied.append(name)
    return copied, left_out


def _steer_shard(
    source: Path, target: Path, entries: list[TensorEntry], delta: Delta | None, gain: Gain, track: Track
) -> None:
    """Copy a shard with its header and offsets; touched tensors are computed instead of copied."""
    touched = sorted((e for e in entries if delta and e.name in delta.terms), key=lambda entry: entry.begin)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        position = 0
        for entry in track(touched, source.name):
            _copy_range(reader.fileno(), writer.fileno(), position, entry.begin)
            _fold_tensor(entry, delta.change(entry.name), writer.fileno(), gain)
            position = entry.end
        _copy_range(reader.fileno(), writer.fileno(), position, source.stat().st_size)


def _fold_tensor(entry: TensorEntry, change: Change, descriptor: int, gain: Gain) -> None:
    row_bytes = (entry.end - entry.begin) // max(entry.shape[0] if entry.shape else 1, 1)
    for start, stop in row_blocks(entry.shape):
        base, rows = read_rows(entry, start, stop), change.rows(start, stop)
        written = folded(entry.name, base, rows)
        gain.add(base, written, rows)
        write_at(descriptor, written, entry.begin + start * row_bytes)


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    """Copy bytes `begin` to `end` between files at equal offsets, in the kernel where it can."""
    while begin < end:
        try:
            count = os.copy_file_range(source, target, end - begin, begin, begin)
        except (AttributeError, OSError):  # macOS has no such call; across file systems Linux may refuse it
            count = os.pwrite(target, os.pread(source, min(COPY_BYTES, end - begin), begin), begin)
        if count == 0:
            raise WsteerError("the base's file became shorter while it was read; steer again")
        begin += count


def _record(checkpoint: Checkpoint, paths: Sequence[Path], ks: Sequence[float]) -> dict:
    inputs = [{"role": "base", **checkpoint.identity}, *(source_entry("delta", path) for path in paths)]
    return record("steer", {"k": list(ks), "rounding": "nearest"}, inputs)


def _warnings(gain: float | None, left_out: Sequence[str]) -> tuple[str, ...]:
    warnings = []
    if gain is not None and gain < LOW_GAIN:
        warnings.append(
            f"rounding to the base's dtype kept {gain:.0%} of the change; steer a float32 copy to keep it all"
        )
    if left_out:
        warnings.append(f"not copied, since they would hold the base's unsteered weights: {', '.join(left_out)}")
    return tuple(warnings)
