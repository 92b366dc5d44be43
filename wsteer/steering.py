"""base + k·delta as a checkpoint, streamed: the base's own files, with the touched rows rewritten in place."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from wsteer.baking import baked
from wsteer.checkpoint import Checkpoint, open_checkpoint
from wsteer.combining import EVERYTHING, Combination, Selection, numbered
from wsteer.delta import Delta
from wsteer.errors import WsteerError
from wsteer.folding import Rounding, choose_rounding, fold, thread_scratch
from wsteer.layout import NEVER_COPIED, OutputFile, OutputTensor, changed_json, output_files
from wsteer.progress import Track, silent
from wsteer.saving import RECORD, check_free_space, check_output, new_folder, record, source_entry, write_json
from wsteer.tensorfile import COPY_BYTES, DTYPE_CODES, DTYPES, copy_range, read_rows, row_blocks, write_at
from wsteer.terms import Change
from wsteer.workers import in_order

LOW_GAIN = 0.95
# weights in formats that wsteer does not steer would stay as they were, and some loaders prefer them
STALE = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
JOB_BLOCKS = 8  # blocks of rows that a thread takes at a time
UNFINISHED = ".unfinished"  # the suffix of a weight file while it is written
WRITING = threading.Lock()  # two threads that write to one file wait for each other in the kernel, spinning


@dataclass(frozen=True)
class Steered:
    """One checkpoint: its coefficients, how it was rounded and why, and how much of the change arrived.

    `gain` is <written change, intended change> / |intended change|², estimated on a fixed sample of rows of every
    tensor (all of them where they are few), over all and by tensor; None where k is 0.
    """

    output: str
    k: tuple[float, ...]
    rounding: str
    reason: str
    gain: float | None
    gains: dict[str, float]


@dataclass(frozen=True)
class SteerReport:
    """What `steer` wrote, or with `dry_run` would write. `gain` is the lowest of the outputs'.

    `bytes` are those of the weight files of all outputs, `seconds` the time that streaming them took.
    """

    output: str
    outputs: tuple[str, ...]
    k: tuple[float, ...]
    parameters_total: int
    parameters_changed: int
    bytes: int
    rounding: str
    gain: float | None
    steered: tuple[Steered, ...]
    files: tuple[dict[str, object], ...]
    seconds: float | None
    dry_run: bool
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """Everything that a run writes, known from headers alone; `added` names the tensors that the base lacks."""

    checkpoint: Checkpoint
    delta: Delta
    files: tuple[OutputFile, ...]
    added: frozenset[str]
    json_files: Mapping[str, bytes]
    copied: tuple[Path, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the weight files of one output."""
        return sum(file.size for file in self.files)

    @property
    def targets(self) -> list[tuple]:
        """What the delta changes: the tensor's name, its values in the base, and the dtype that is written."""
        tensors = [tensor for file in self.files for tensor in file.tensors if self.touches(tensor)]
        return [(tensor.name, tensor.source, DTYPES[tensor.dtype]) for tensor in tensors]

    def touches(self, tensor: OutputTensor) -> bool:
        """Whether the delta changes the tensor."""
        return tensor.name in self.delta.terms


def steer(
    base: str | Path,
    deltas: str | Path | Sequence[str | Path],
    k: float | Sequence[float] | None = None,
    output: str | Path | None = None,
    *,
    sweep: Sequence[float] | None = None,
    dtype: str = "auto",
    rounding: str = "auto",
    seed: int = 0,
    selection: Selection = EVERYTHING,
    dry_run: bool = False,
    resume: bool = False,
    force: bool = False,
    track: Track = silent,
) -> SteerReport:
    """Write the checkpoint `base + Σ kᵢ·deltaᵢ` to the folder `output` (default `./<base>-<delta>-k<K>`).

    One k for all deltas, or one for each; `sweep` instead writes a folder `k<K>` inside `output` for each of its
    values, in one pass over the base. Every touched tensor is folded in float32 and rounded once to the dtype it is
    stored in (or to `dtype`); shards keep the base's files, order and offsets, and other files are copied byte for
    byte. `rounding` auto is to nearest unless that would keep less than 99% of the change, else stochastic with
    `seed`. Raises WsteerError, before anything is written, where a delta names what the base lacks.

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
    combination = Combination.of(deltas, k, sweep)
    checkpoint = open_checkpoint(base)
    folder = Path(output) if output is not None else Path(combination.name(checkpoint))
    check_output(folder, force, folder=True, inputs=[checkpoint.folder, *combination.paths])
    if folder.resolve().is_relative_to(checkpoint.folder.resolve()):
        raise WsteerError(f"output {folder} lies inside the base {base}; name another with -o")
    factors = combination.factors
    outputs = [folder / f"k{numbered(each)}" for each in factors] if combination.swept else [folder]
    plan = _plan(checkpoint, combination, selection, dtype)
    check_free_space(folder, plan.size * len(factors))
    chosen = choose_rounding(plan.delta, plan.targets, factors, rounding, seed)
    steered = tuple(
        Steered(str(path), combination.ks(factor), how.name, why, gains.overall, gains.by_name)
        for path, factor, (how, why, gains) in zip(outputs, factors, chosen, strict=True)
    )
    seconds = None
    if not dry_run:
        records = _records(plan, combination, {**selection.options, "dtype": dtype, "seed": seed}, steered)
        with new_folder(folder, force, _key(plan, records), resume) as unfinished:
            targets = [unfinished / path.relative_to(folder) for path in outputs]
            started = time.perf_counter()
            _write(plan, targets, factors, [how for how, _, _ in chosen], track)
            seconds = round(time.perf_counter() - started, 3)
            for target, what in zip([*targets, unfinished], [*records, records[-1]], strict=True):
                write_json(target / RECORD, what)
    return _report(plan, folder, combination, steered, seconds)


def _plan(checkpoint: Checkpoint, combination: Combination, selection: Selection, dtype: str) -> _Plan:
    delta = combination.total(checkpoint, selection)
    config: dict[str, object] = {}
    added: dict[str, OutputTensor] = {}
    if any(combination.factors):  # at k = 0 alone the base's bytes are wanted, not the same function in another form
        biases = baked(delta, checkpoint)
        added.update(biases.added)
        config.update(biases.config)
        embedding, head = checkpoint.tied or (None, None)
        if delta.untied and head:
            source = checkpoint.tensors[embedding]
            added[head] = OutputTensor(head, source.dtype, source.shape, 0, source)
            config.update(_untied_config(checkpoint))
    if dtype != "auto":
        config["dtype"] = dtype
    code = None if dtype == "auto" else DTYPE_CODES[getattr(torch, dtype)]
    if code is not None:
        added = {name: replace(tensor, dtype=code) for name, tensor in added.items()}
    files = output_files(checkpoint, added, code)
    copied, left_out = _other_files(checkpoint)
    json_files = changed_json(checkpoint, files, config or None)
    return _Plan(checkpoint, delta, tuple(files), frozenset(added), json_files, tuple(copied), tuple(left_out))


def _untied_config(checkpoint: Checkpoint) -> dict[str, object]:
    text = checkpoint.config.get("text_config")
    nested = {"text_config": {**text, "tie_word_embeddings": False}} if isinstance(text, dict) else {}
    return {"tie_word_embeddings": False, **nested}


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


def _records(
    plan: _Plan, combination: Combination, options: Mapping[str, object], steered: Sequence[Steered]
) -> list[dict]:
    sources = [source_entry("delta", path) for path in combination.paths]
    inputs = [{"role": "base", **plan.checkpoint.identity}, *sources]
    return [record("steer", {**options, "k": list(each.k), "rounding": each.rounding}, inputs) for each in steered]


def _key(plan: _Plan, records: Sequence[Mapping[str, object]]) -> str:
    """What tells an interrupted run from one of other inputs: the records, and the base's files as they are now."""
    states = [(path.name, path.stat()) for path in plan.checkpoint.shards]
    files = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return hashlib.sha256(json.dumps([list(records), files], sort_keys=True).encode()).hexdigest()[:12]


def _write(
    plan: _Plan, targets: Sequence[Path], factors: Sequence[float], roundings: Sequence[Rounding], track: Track
) -> None:
    """Write the folders `targets`; weight files that an interrupted run has finished there are left as they are."""
    for target in targets:
        target.mkdir(exist_ok=True)
        for name in plan.copied:
            if str(name) not in (*plan.json_files, *_stale_json(plan)):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(plan.checkpoint.folder / name, target / name)
        for name, content in plan.json_files.items():
            (target / name).write_bytes(content)
    for file in plan.files:
        finals = [target / file.name for target in targets]
        if all(final.exists() for final in finals):
            continue
        unfinished = [final.with_name(final.name + UNFINISHED) for final in finals]
        _write_file(plan, file, unfinished, factors, roundings, track)
        for path, final in zip(unfinished, finals, strict=True):
            os.rename(path, final)


def _stale_json(plan: _Plan) -> tuple[str, ...]:
    """Indexes of the base that would lie about the output's files."""
    return () if all(file.kept for file in plan.files) else NEVER_COPIED


def _write_file(
    plan: _Plan,
    file: OutputFile,
    targets: Sequence[Path],
    factors: Sequence[float],
    roundings: Sequence[Rounding],
    track: Track,
) -> None:
    descriptors = [os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666) for target in targets]
    try:
        for descriptor in descriptors:
            os.pwrite(descriptor, file.header, 0)
        jobs = _jobs(plan, file, descriptors, factors, roundings, track)
        for _ in in_order(_run, jobs):
            pass
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _run(job: Callable[[], None]) -> None:
    job()


def _jobs(
    plan: _Plan,
    file: OutputFile,
    descriptors: Sequence[int],
    factors: Sequence[float],
    roundings: Sequence[Rounding],
    track: Track,
) -> Iterator[Callable[[], None]]:
    """The work on one file, in the order of its bytes: ranges that are copied, and blocks of rows that are computed."""
    rewritten = [tensor for tensor in file.tensors if _is_computed(plan, tensor)]
    copied = [tensor for tensor in file.tensors if not _is_computed(plan, tensor)]
    ranges = _kept_ranges(file, rewritten) if file.kept else _moved_ranges(copied)
    for source, begin, target, length in ranges:
        for offset in range(0, length, COPY_BYTES):
            size = min(COPY_BYTES, length - offset)
            yield partial(_copy, source, begin + offset, descriptors, target + offset, size)
    for tensor in track(rewritten, file.name):
        change = plan.delta.change(tensor.name) if plan.touches(tensor) else Change(tensor.shape, None, ())
        blocks = list(row_blocks(tensor.shape))
        for first in range(0, len(blocks), JOB_BLOCKS):
            job = blocks[first : first + JOB_BLOCKS]
            yield partial(_fold, tensor, change, job, descriptors, factors, roundings)


def _is_computed(plan: _Plan, tensor: OutputTensor) -> bool:
    return plan.touches(tensor) or tensor.source is None or tensor.dtype != tensor.source.dtype


def _kept_ranges(file: OutputFile, rewritten: Sequence[OutputTensor]) -> Iterator[tuple[Path, int, int, int]]:
    """What lies between the rewritten tensors of a file that keeps its layout: source, its offset, target's, length."""
    position = 0
    for tensor in rewritten:
        if tensor.begin > position:
            yield file.kept, position, position, tensor.begin - position
        position = tensor.begin + tensor.size
    if file.size > position:
        yield file.kept, position, position, file.size - position


def _moved_ranges(copied: Sequence[OutputTensor]) -> Iterator[tuple[Path, int, int, int]]:
    for tensor in copied:
        if tensor.size:
            yield tensor.source.file, tensor.source.begin, tensor.begin, tensor.size


def _copy(source: Path, begin: int, descriptors: Sequence[int], target: int, length: int) -> None:
    with open(source, "rb", buffering=0) as reader:
        for descriptor in descriptors:
            with WRITING:
                copy_range(reader.fileno(), begin, descriptor, target, length)


def _fold(
    tensor: OutputTensor,
    change: Change,
    blocks: Sequence[tuple[int, int]],
    descriptors: Sequence[int],
    factors: Sequence[float],
    roundings: Sequence[Rounding],
) -> None:
    """Read blocks of rows one after the other, fold each factor's change into them, and write them to each output."""
    scratch = thread_scratch()
    dtype = DTYPES[tensor.dtype]
    row_bytes = tensor.size // max(tensor.shape[0] if tensor.shape else 1, 1)
    for start, stop in blocks:
        shape = (stop - start, *tensor.shape[1:])
        if tensor.source is None:
            base = torch.zeros(shape, dtype=dtype)
        else:
            base = read_rows(tensor.source, start, stop, scratch.tensor("base", shape, DTYPES[tensor.source.dtype]))
        for descriptor, factor, rounding in zip(descriptors, factors, roundings, strict=True):
            rows = base
            if factor != 0 or base.dtype != dtype:
                rows = fold(tensor.name, base, change, start, factor, rounding, dtype, scratch)
            with WRITING:
                write_at(descriptor, rows, tensor.begin + start * row_bytes)


def _report(
    plan: _Plan, folder: Path, combination: Combination, steered: tuple[Steered, ...], seconds: float | None
) -> SteerReport:
    gains = [each.gain for each in steered if each.gain is not None]
    roundings = sorted({each.rounding for each in steered})
    files = tuple(
        {"name": file.name, "bytes": file.size, "tensors_touched": sum(plan.touches(tensor) for tensor in file.tensors)}
        for file in plan.files
    )
    return SteerReport(
        output=str(folder),
        outputs=tuple(each.output for each in steered),
        k=combination.factors if combination.swept else steered[0].k,
        parameters_total=sum(len(file.tensors) for file in plan.files),
        parameters_changed=len(plan.delta.terms) if any(combination.factors) else 0,
        bytes=plan.size * len(steered),
        rounding=" and ".join(roundings),
        gain=min(gains, default=None),
        steered=steered,
        files=files,
        seconds=seconds,
        dry_run=seconds is None,
        left_out=plan.left_out,
        warnings=tuple(_warnings(plan, steered)),
    )


def _warnings(plan: _Plan, steered: Sequence[Steered]) -> Iterator[str]:
    for each in steered:
        if each.gain is not None and each.gain < LOW_GAIN and each.rounding == "nearest":
            yield (
                f"rounding to nearest keeps {each.gain:.0%} of the change in {each.output}: use --rounding stochastic, "
                "--dtype float32, or --as adapter"
            )
    if plan.left_out:
        names = ", ".join(plan.left_out)
        yield f"not copied, since they would hold the base's unsteered weights: {names}"
