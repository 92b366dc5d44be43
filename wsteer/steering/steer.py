"""base + k·delta as a checkpoint, streamed: the base's own files, with the touched rows rewritten in place."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.contents import check_files
from wsteer.checkpoints.names import NUMBERED, shared_blocks
from wsteer.deltas.delta import Delta
from wsteer.deltas.model_input import open_model
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.provenance import RECORD, key, record
from wsteer.files.saving import check_free_space, check_output, mark_work, new_folder
from wsteer.files.tensors import DTYPE_CODES, DTYPES
from wsteer.files.text import write_json
from wsteer.progress import Progress, silent
from wsteer.steering.baking import baked
from wsteer.steering.combination import Combination, numbered
from wsteer.steering.gains import Choice, Target, choose_rounding
from wsteer.steering.layout import NEVER_COPIED, OutputFile, OutputTensor, changed_json, output_files, with_setting
from wsteer.steering.rounding import Rounding
from wsteer.steering.streaming import Output, is_written, write_files
from wsteer.workers import beside

LOW_GAIN = 0.95
WRITTEN = ("auto", "float32", "bfloat16", "float16")
# not copied: weights in these formats would stay unsteered, and some loaders prefer them
STALE = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")


@dataclass(frozen=True)
class Steered:
    """One checkpoint: its coefficients, how it was rounded and why, and how much of the change the rounding kept.

    `gain` is <written change, intended change> / |intended change|², estimated on a fixed sample of rows of every
    tensor (all rows if they are few), over all tensors, and by tensor in `gains`; None if k is 0.
    """

    output: str
    k: tuple[float, ...]
    rounding: str
    reason: str
    gain: float | None
    gains: dict[str, float]


@dataclass(frozen=True)
class SteeredFile:
    """A weight file of each output: its bytes, and how many of its tensors the delta changes."""

    name: str
    bytes: int
    tensors_touched: int


@dataclass(frozen=True)
class SteerReport:
    """What `steer` wrote, or with `dry_run` would write. `gain` is the lowest of all outputs.

    `bytes` is the total of all outputs' weight files, `seconds` the time of streaming them.
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
    files: tuple[SteeredFile, ...]
    seconds: float | None
    dry_run: bool
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """Everything that a run writes, known from the headers."""

    checkpoint: Checkpoint
    delta: Delta
    files: tuple[OutputFile, ...]
    json_files: Mapping[str, bytes]
    copied: tuple[Path, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the weight files of one output."""
        return sum(file.size for file in self.files)

    @property
    def targets(self) -> list[Target]:
        """The tensors that the delta changes."""
        tensors = [tensor for file in self.files for tensor in file.tensors if self.touches(tensor)]
        return [Target(tensor.name, tensor.source, DTYPES[tensor.dtype]) for tensor in tensors if not tensor.copy_of]

    def touches(self, tensor: OutputTensor) -> bool:
        """Whether the delta changes the tensor."""
        return tensor.parameter in self.delta.terms


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
    progress: Progress = silent,
) -> SteerReport:
    """Write the checkpoint `base + Σ kᵢ·deltaᵢ` to the folder `output` (default `./<base>-<delta>-k<K>`).

    Each of `deltas` is a delta file, an adapter or a checkpoint, which stands for its change of the base. If `base` is
    an adapter, it is its own base plus its change.

    `k` is one for all deltas, or one for each; `sweep` instead writes a folder `k<K>` inside `output` for each of its
    values, in one pass over the base. Every touched tensor is folded in float32 and rounded once to its stored dtype
    (or to `dtype`). Shards keep the base's files, order and offsets; other files are copied byte for byte. `rounding`
    auto is to nearest if that keeps 99% of the change or more, else stochastic with `seed`. Raises WsteerError, before
    anything is written, if a delta names what the base lacks.

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
    if dtype not in WRITTEN:
        raise WsteerError(f"dtype {dtype!r} cannot hold steered weights; use one of {', '.join(WRITTEN)}")
    wanted = Rounding(rounding, seed)
    combination, model = Combination.of(deltas, k, sweep), open_model(base)
    combination, checkpoint = combination.on(model), model.checkpoint
    folder = Path(output) if output is not None else Path(combination.name(model))
    inputs: list[str | Path] = [*model.folders, *combination.references]
    check_output(folder, force, folder=True, inputs=inputs, resume=resume or dry_run)
    if folder.resolve().is_relative_to(checkpoint.folder.resolve()):
        raise WsteerError(f"output {folder} lies inside the base {base}; name another with -o")
    ks = combination.ks
    total = combination.total(model, selection)
    plan = _plan(checkpoint, total.delta, dtype, changed=any(ks))
    check_free_space(folder, plan.size * len(ks))
    with beside(lambda: [] if dry_run else total.sources) as sources:  # the digests are computed in parallel
        choices = choose_rounding(plan.delta, plan.targets, ks, wanted)
    places = [f"k{numbered(each)}" if combination.swept else "" for each in ks]  # where the outputs are in the folder
    steered = tuple(
        _steered(folder / place, combination.each_k(each), choices[each])
        for place, each in zip(places, ks, strict=True)
    )
    seconds = None
    if not dry_run:
        options = {**selection.options, "dtype": dtype, "seed": seed}
        records = _records([checkpoint.input_entry("base"), *sources()], options, steered)
        with new_folder(folder, force, _key(plan, records), resume) as unfinished:
            written = [
                Output(unfinished / place, each, choices[each].rounding) for place, each in zip(places, ks, strict=True)
            ]
            started = time.perf_counter()
            for part, outputs in _passes(plan, written, dtype):
                _write(part, outputs, progress, lambda: mark_work(unfinished))
            seconds = round(time.perf_counter() - started, 3)
            check_unchanged([*plan.checkpoint.shards, *total.files])
            for each, what in zip(written, records, strict=True):
                write_json(each.folder / RECORD, what)
            write_json(unfinished / RECORD, records[-1])
    return _report(plan, folder, combination, steered, seconds, total.warnings)


def _steered(folder: Path, ks: tuple[float, ...], choice: Choice) -> Steered:
    overall, by_name = (choice.gains.overall, choice.gains.by_name) if choice.gains is not None else (None, {})
    return Steered(str(folder), ks, choice.rounding.mode, choice.reason, overall, by_name)


def _passes(plan: _Plan, outputs: Sequence[Output], dtype: str) -> list[tuple[_Plan, list[Output]]]:
    """The outputs of each pass over the base: one pass for all, unless the files for k = 0 differ in layout."""
    zeros = [output for output in outputs if output.k == 0]
    as_base = _plan(plan.checkpoint, plan.delta, dtype, changed=False) if zeros else plan
    if (as_base.files, as_base.json_files) == (plan.files, plan.json_files):
        return [(plan, list(outputs))]
    return [(plan, [output for output in outputs if output.k != 0]), (as_base, zeros)]


def _plan(checkpoint: Checkpoint, delta: Delta, dtype: str, changed: bool) -> _Plan:
    """What to write if some k is not 0 (`changed`), else for k = 0: then no tensors or config values are added."""
    config = dict(checkpoint.config)  # read even if it stays: beside a broken one the weights are of no use
    added: dict[str, OutputTensor] = {}
    copies: dict[str, str] = {}
    if changed:
        biases = baked(delta, checkpoint)
        added.update(biases.added)
        config.update(biases.config)
    outside = [name for name in delta.terms if not NUMBERED.match(name)]  # without any, the ends are not asked for
    if any(name in checkpoint.ends for name in outside) and checkpoint.tied is not None:
        embedding, head = checkpoint.tied
        if not delta.untied:
            copies = {head: embedding}
        elif changed:
            if shared := shared_blocks(checkpoint):  # which tie_word_embeddings ties too
                raise WsteerError(
                    f"{checkpoint.name} cannot untie its head: transformers would then no longer load {shared}, which "
                    "other blocks share; leave embedding and head out with --exclude, or write it --as delta or adapter"
                )
            config = _untied(config)
            if head not in checkpoint.tensors:
                source = checkpoint.tensors[embedding]
                added[head] = OutputTensor(head, source.dtype, source.shape, 0, source)
    if dtype != "auto":
        config = with_setting(config, ("dtype", "torch_dtype"), dtype)
    code = None if dtype == "auto" else DTYPE_CODES[getattr(torch, dtype)]
    if code is not None:
        added = {name: replace(tensor, dtype=code) for name, tensor in added.items()}
    files = output_files(checkpoint, added, copies, code)
    copied, left_out = _other_files(checkpoint)
    json_files = changed_json(checkpoint, files, config)
    return _Plan(checkpoint, delta, tuple(files), json_files, tuple(copied), tuple(left_out))


def _untied(config: Mapping[str, object]) -> dict[str, object]:
    """The config with a head of its own, said in its text part too: some classes tie if either says, or assumes, so."""
    changed = with_setting(config, ("tie_word_embeddings",), False)
    text = changed.get("text_config")
    return {**changed, "text_config": {**text, "tie_word_embeddings": False}} if isinstance(text, dict) else changed


def _other_files(checkpoint: Checkpoint) -> tuple[list[Path], list[str]]:
    """The base's files besides its shards: those to copy, and the weights in other formats that are left out."""
    copied: list[Path] = []
    left_out: list[str] = []
    for path in sorted(checkpoint.folder.rglob("*")):
        name = path.relative_to(checkpoint.folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or path in checkpoint.shards or not path.is_file() or str(name) == RECORD:
            continue
        if path.suffix in STALE:
            left_out.append(str(name))
        else:
            copied.append(name)
    check_files(checkpoint.folder, [checkpoint.folder / name for name in copied])
    return copied, left_out


def _records(
    inputs: Sequence[Mapping[str, object]], options: Mapping[str, object], steered: Sequence[Steered]
) -> list[dict]:
    return [record("steer", {**options, "k": list(each.k), "rounding": each.rounding}, inputs) for each in steered]


def _key(plan: _Plan, records: Sequence[Mapping[str, object]]) -> str:
    """A digest that identifies the run, for `resume`: of its records, and of the state of the base's files."""
    states = [(path.name, path.stat()) for path in plan.checkpoint.shards]
    files = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return key([list(records), files])


def _write(plan: _Plan, outputs: Sequence[Output], progress: Progress, finished: Callable[[], None]) -> None:
    """Write the outputs, except weight files that an interrupted run has finished there; `finished` after each few."""
    for folder in (output.folder for output in outputs):
        folder.mkdir(exist_ok=True)
        for path in plan.copied:
            if str(path) not in (*plan.json_files, *_stale_json(plan)):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(plan.checkpoint.folder / path, folder / path)
        for name, content in plan.json_files.items():
            (folder / name).write_bytes(content)
    files = [file for file in plan.files if not all(is_written(file, output.folder / file.name) for output in outputs)]
    write_files(files, outputs, plan.delta, finished, progress)


def _stale_json(plan: _Plan) -> tuple[str, ...]:
    """The base's index files that would be wrong for the output's files."""
    return () if all(file.kept for file in plan.files) else NEVER_COPIED


def _report(
    plan: _Plan,
    folder: Path,
    combination: Combination,
    steered: tuple[Steered, ...],
    seconds: float | None,
    warnings: tuple[str, ...],
) -> SteerReport:
    gains = [each.gain for each in steered if each.gain is not None]
    roundings = sorted({each.rounding for each in steered})
    files = tuple(
        SteeredFile(file.name, file.size, sum(plan.touches(tensor) for tensor in file.tensors)) for file in plan.files
    )
    return SteerReport(
        output=str(folder),
        outputs=tuple(each.output for each in steered),
        k=combination.ks if combination.swept else steered[0].k,
        parameters_total=sum(len(file.tensors) for file in plan.files),
        parameters_changed=len(plan.delta.terms) if any(combination.ks) else 0,
        bytes=plan.size * len(steered),
        rounding=" and ".join(roundings),
        gain=min(gains, default=None),
        steered=steered,
        files=files,
        seconds=seconds,
        dry_run=seconds is None,
        left_out=plan.left_out,
        warnings=(*warnings, *_warnings(plan, steered)),
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
