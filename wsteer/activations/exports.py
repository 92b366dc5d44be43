"""Activation vectors as files of other tools: what is asked for, checked before anything runs, and written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor
from transformers import PreTrainedModel

from wsteer.activations.pickled import hookpoint_bytes, rows_bytes
from wsteer.activations.vectors import MOST_BLOCKS, MOST_BYTES, facts_of
from wsteer.checkpoints.names import layer_of
from wsteer.deltas.blocks import NAME
from wsteer.deltas.choosing import check_layers, ranges
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import check_written
from wsteer.errors import WsteerError
from wsteer.files.saving import check_output, new_file
from wsteer.models.loading import decoder_blocks
from wsteer.progress import Note, unsaid

Form = Literal["control-vector", "persona-vectors", "lm-eval"]
SUFFIXES = {".gguf": ("control-vector",), ".pt": ("persona-vectors", "lm-eval")}  # the first is the default
UNKNOWN = "unknown"  # the type of a model that is not given


@dataclass(frozen=True)
class Export:
    """A file of another tool to write: its form, which blocks (all by default), and for lm-eval which k."""

    path: Path
    form: Form
    layers: tuple[int, ...] | None = None
    k: float | None = None

    @staticmethod
    def of(
        path: str | Path, form: Form | None = None, layers: Sequence[int] | None = None, k: float | None = None
    ) -> "Export":
        """The export to `path`, whose suffix says the form unless it is given; a WsteerError if they do not fit."""
        path = Path(path)
        forms = SUFFIXES.get(path.suffix)
        if forms is None or (form or forms[0]) not in forms:
            raise WsteerError(
                f"{path}: an export ends in .gguf (a control vector of llama.cpp and repeng) or .pt (persona-vectors, "
                f"or lm-eval); the forms are {', '.join(get_args(Form))}"
            )
        chosen: Form = form or forms[0]  # type: ignore[assignment]
        if k is not None and chosen != "lm-eval":
            raise WsteerError(f"--k is for lm-eval's files; the tools that read a {chosen} file take a k themselves")
        return Export(path, chosen, None if layers is None else tuple(layers), k)

    def check(self, force: bool, inputs: Sequence[str | Path], beside: Path | None) -> None:
        """Refuse an output that cannot be written, or that is the delta file `beside` it."""
        check_output(self.path, force, folder=False, inputs=inputs)
        if beside is not None and self.path.resolve() == beside.resolve():
            raise WsteerError(f"{self.path} is named for the delta and for the export; name two files")

    def chosen(self, blocks: Iterable[int]) -> list[int]:
        """The blocks to export, of these that have a vector; a WsteerError if the form cannot hold them."""
        names = {NAME.format(block): block for block in sorted(blocks)}
        check_layers(names, self.layers, None)
        found = [block for block in names.values() if self.layers is None or block in self.layers]
        if self.form == "lm-eval" and self.layers is None and len(found) > 1:
            raise WsteerError(
                f"lm-eval adds all vectors of a file at once, and each of the {len(found)} already has what the blocks "
                "before it add: choose a block with --layers, as --layers 12"
            )
        if self.form == "control-vector" and found == [0]:
            raise WsteerError(
                "llama.cpp adds nothing at block 0, the only one to be exported; choose others by --layers"
            )
        return [block for block in found if block or self.form != "control-vector"]  # llama.cpp takes none of block 0


@dataclass(frozen=True)
class Outline:
    """What other tools' files say of a model: its type, and the names of its blocks inside of the base model."""

    model_type: str
    hookpoints: tuple[str, ...]

    @staticmethod
    def of(model: PreTrainedModel) -> "Outline":
        """The outline of a model, which may be on the meta device."""
        names = {id(module): name for name, module in model.base_model.named_modules()}
        return Outline(str(model.config.model_type), tuple(names[id(block)] for block in decoder_blocks(model)))


def export(delta: Delta, wanted: Export, outline: Outline | None, force: bool = False, note: Note = unsaid) -> str:
    """Write the activation vectors of `delta` as another tool's file, whole or not at all; the path written.

    `outline` is that of the vectors' model, None if it is not at hand. What the file cannot hold, and what its reader
    does with it, is said by `note`.
    """
    vectors = vectors_of(delta)
    by_block = {block: vectors[block] for block in wanted.chosen(vectors)}
    facts = facts_of(delta)
    with new_file(wanted.path, force) as partial:
        if wanted.form == "control-vector":
            # imports gguf, which few need
            from wsteer.activations.control_vectors import write_control_vectors  # noqa: PLC0415

            hint = outline.model_type if outline is not None else delta.options.get("model_hint")
            _say_directions(by_block, 0 in vectors and (wanted.layers is None or 0 in wanted.layers), note)
            write_control_vectors(partial, by_block, _hint(hint, note), facts)
        elif wanted.form == "persona-vectors":
            blocks = _depth(wanted.path, delta, vectors, outline)
            _say_rows(by_block, blocks, note)
            partial.write_bytes(rows_bytes(by_block, blocks, facts))
        else:
            k = 1.0 if wanted.k is None else wanted.k
            if not all((k * vector).isfinite().all() for vector in by_block.values()):
                raise WsteerError(f"--k {k:g} times a vector is beyond the range of float32; lower --k")
            partial.write_bytes(hookpoint_bytes(by_block, k, _hookpoints(by_block, k, outline, note), facts))
    return str(wanted.path)


def vectors_of(delta: Delta) -> dict[int, Tensor]:
    """The vectors of an activation delta, float32 [hidden] by block, in order; WsteerError if they are of no model."""
    found: dict[int, Tensor] = {}
    shapes = sorted({delta.shape(name) for name in delta.terms})
    if len(shapes) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        raise WsteerError(f"activation vectors of the shapes {shapes[:3]} are of no model; all must be [hidden]")
    for name in delta.terms:
        block = layer_of(name, None)
        if block is None or block >= MOST_BLOCKS:
            raise WsteerError(f"the activation vector {name} is of no block that a model has; make it again")
        found[block] = check_written(name, delta.change(name).rows(0, *shapes[0])).contiguous()
    return dict(sorted(found.items()))


def _say_directions(by_block: Mapping[int, Tensor], first_left_out: bool, note: Note) -> None:
    if first_left_out:
        note("block 0 is left out: llama.cpp takes no file with a direction.0")
    note("direction.N is added to the output of block N, counted from 0: the paper's layer N + 1")
    if len(by_block) > 1:
        note(
            f"llama.cpp adds all {len(by_block)} directions at once, and each already has what the blocks before it "
            "add: choose a block by --layers here, or by --control-vector-layer-range N N there"
        )


def _hint(model_type: object, note: Note) -> str:
    if isinstance(model_type, str):
        return model_type
    note("the model's type is not known, and written as unknown; name the model with --base")
    return UNKNOWN


def _depth(path: Path, delta: Delta, vectors: Mapping[int, Tensor], outline: Outline | None) -> int:
    """How many blocks the vectors' model has, as far as it is known."""
    recorded = delta.options.get("model_blocks")
    known = len(outline.hookpoints) if outline is not None else recorded if type(recorded) is int else 0
    depth = max(known, max(vectors) + 1)
    if depth > MOST_BLOCKS or depth * len(next(iter(vectors.values()))) > MOST_BYTES // 4:
        raise WsteerError(f"{path} would need {depth} rows, more than a model has; name the vectors' model with --base")
    return depth


def _say_rows(by_block: Mapping[int, Tensor], blocks: int, note: Note) -> None:
    missing = set(range(blocks)) - by_block.keys()
    zeros = f"; zeros too where a block has no vector: {ranges(missing)}" if missing else ""
    note(f"row l is the output of block l - 1, the paper's layer l; row 0, the embedding's, is zeros{zeros}")
    if blocks - 1 in by_block:
        note(f"row {blocks} is block {blocks - 1}'s output before the final norm; persona-vectors takes it after")


def _hookpoints(by_block: Mapping[int, Tensor], k: float, outline: Outline | None, note: Note) -> Sequence[str]:
    hookpoints: Sequence[str] = [f"layers.{block}" for block in range(max(by_block) + 1)]
    if outline is not None:
        hookpoints = outline.hookpoints
    else:
        note("blocks are named layers.N, as in most models; with --base MODEL as in the model")
    note(f"lm-eval adds {k:g} times the vector at {', '.join(hookpoints[b] for b in by_block)}, to padding too")
    return hookpoints
