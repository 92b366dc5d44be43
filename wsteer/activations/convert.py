"""Activation vectors of other tools -> a delta file; a delta file's activation vectors -> files of other tools."""

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig

from wsteer.activations.exports import Export, Outline, export, vectors_of
from wsteer.activations.pickled import read_pickled
from wsteer.checkpoints.architecture import read_config, skeleton
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.bases import check_bases
from wsteer.deltas.blocks import NAME
from wsteer.deltas.delta import Delta
from wsteer.deltas.model_input import open_model
from wsteer.errors import WsteerError
from wsteer.files.opening import regular
from wsteer.files.provenance import source_entry
from wsteer.files.saving import check_output
from wsteer.progress import Note, unsaid
from wsteer.steering.memory import activation_vectors

KNOWN = "persona-vectors' .pt ([blocks + 1, hidden]), lm-eval's steered .pt, a control vector (.gguf), or a delta file"
NATIVE = "delta"
GGUF, ZIP = b"GGUF", b"PK\3\4"  # how files begin
MOST_START = 1024


@dataclass(frozen=True)
class ConvertReport:
    """What was read, and where it was written: `output` is the delta file, or else the exported file.

    `blocks` are the decoder blocks that have a vector, counted from 0, and `norms` the vectors' norms; `base` names the
    model, if it is known. `exported_blocks` are those in the exported file. `form` is the kind of file that was read.
    """

    output: str
    exported: str | None
    kind: str
    form: str
    base: str | None
    blocks: tuple[int, ...]
    hidden: int
    norms: tuple[float, ...]
    exported_blocks: tuple[int, ...]


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    base: str | Path | None = None,
    gguf_index: str | None = None,
    export_to: Export | None = None,
    force: bool = False,
    note: Note = unsaid,
) -> ConvertReport:
    """Write the activation vectors in `source`, a file of another tool or a delta file, as a delta, an export, or both.

    What kind of file it is, its content tells. `base` is the vectors' model: its blocks and sizes are checked, and the
    delta names it. `gguf_index` says whether direction.N of a GGUF file is of block N (`as-applied`, the default) or of
    block N - 1 (`generator`). Which entry of the file became which block is said by `note`.
    """
    source, output = Path(source), Path(output) if output is not None else None
    if output is None and export_to is None:
        raise WsteerError(f"nothing is to be written of {source}; name a delta file with -o, or a file with --export")
    if gguf_index not in (None, "as-applied", "generator"):
        raise WsteerError(f"gguf_index is {gguf_index!r}; it must be as-applied or generator")
    inputs = [source, *([base] if base is not None else [])]
    if output is not None:
        check_output(output, force, folder=False, inputs=inputs)
    if export_to is not None:
        export_to.check(force, inputs, output)
    form, delta = _read(source, gguf_index, note)
    outline = None
    if base is not None:
        checkpoint = open_model(base).checkpoint
        config = read_config(checkpoint)
        delta = _of_base(source, delta, checkpoint, config.get_text_config())
        outline = Outline.of(skeleton(checkpoint, config)) if export_to is not None else None
    vectors = vectors_of(delta)
    exported_blocks = export_to.chosen(vectors) if export_to is not None else []
    if output is not None:
        delta.save(output, force)
    exported = export(delta, export_to, outline, force, note) if export_to is not None else None
    return ConvertReport(
        output=str(output) if output is not None else str(exported),
        exported=exported,
        kind=delta.kind,
        form=form,
        base=delta.base.get("name"),
        blocks=tuple(vectors),
        hidden=len(next(iter(vectors.values()))),
        norms=tuple(vector.double().norm().item() for vector in vectors.values()),
        exported_blocks=tuple(exported_blocks),
    )


def _read(source: Path, gguf_index: str | None, note: Note) -> tuple[str, Delta]:
    """What kind of file `source` is, and its vectors as a delta."""
    with regular(source) as file:
        start = file.read(MOST_START)
    if gguf_index is not None and not start.startswith(GGUF):
        raise WsteerError(f"--gguf-index is for GGUF files, and {source} is none; leave it out")
    if start.startswith(GGUF):
        # imports gguf, which few need
        from wsteer.activations.control_vectors import read_control_vectors  # noqa: PLC0415

        vectors = read_control_vectors(source, "generator" if gguf_index == "generator" else "as-applied")
    elif start.startswith(ZIP):
        vectors = read_pickled(source)
    elif start[8:9] == b"{":  # after the length of a safetensors header
        delta = Delta.load(source)
        if delta.kind != "activation":
            raise WsteerError(f"{source} is a change of weights, no activation vectors; of those see wsteer steer --as")
        note(f"{source.name}: a delta file")
        return NATIVE, delta
    elif b"sparse_model" in start and b"feature_index" in start:
        raise WsteerError(
            f"{source} names features of sparse autoencoders and holds no vectors; give a .pt file that holds them"
        )
    else:
        raise WsteerError(f"{source} is none of the files that --import reads: {KNOWN}")
    note(f"{source.name}: {vectors.form}, {vectors.meaning}")
    return vectors.form, vectors.delta(source_entry("import", source))


def _of_base(source: Path, delta: Delta, base: Checkpoint, config: PreTrainedConfig) -> Delta:
    """The delta with this base, whose blocks and sizes its vectors must fit."""
    check_bases([(str(source), delta.base), (base.name, base.identity)], "name the model it was made on")
    count = config.num_hidden_layers
    last = max(int(name.removeprefix(NAME.format(""))) for name in delta.terms)
    if last >= count and delta.options.get("gguf_index") == "as-applied":
        raise WsteerError(
            f"{source}: direction.{last} is of no block of {base.name}, whose blocks are 0 to {count - 1}; if a "
            "generator wrote block N as direction.N+1, say --gguf-index generator"
        )
    activation_vectors(delta, count, config.hidden_size)
    rows = delta.options.get("model_blocks")
    if rows is not None and rows != count:
        raise WsteerError(f"{source} has rows for {rows} blocks, and {base.name} has {count}; name its own model")
    return replace(delta, base=base.identity)
