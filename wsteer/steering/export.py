"""Σ kᵢ·deltaᵢ as a delta file, or as a PEFT LoRA adapter with k folded in, which PEFT and vLLM load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, hub_name
from wsteer.checkpoints.names import block_path
from wsteer.deltas.delta import Delta
from wsteer.deltas.model_input import open_model
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import check_free_space, check_output, new_file, new_folder
from wsteer.files.text import write_json
from wsteer.progress import Progress, silent
from wsteer.steering.combination import Combination, numbered


@dataclass(frozen=True)
class ExportReport:
    """What was written: delta files, or adapter folders of one rank. `bytes` is the total of all outputs."""

    output: str
    outputs: tuple[str, ...]
    form: str
    k: tuple[float, ...]
    parameters: int
    rank: int | None
    bytes: int
    warnings: tuple[str, ...] = ()


def export(
    base: str | Path,
    deltas: str | Path | Sequence[str | Path],
    k: float | Sequence[float] | None = None,
    output: str | Path | None = None,
    *,
    form: str,
    sweep: Sequence[float] | None = None,
    selection: Selection = EVERYTHING,
    force: bool = False,
    progress: Progress = silent,
) -> ExportReport:
    """Write Σ kᵢ·deltaᵢ in the `form` `delta` (a file) or `adapter` (a PEFT folder); a sweep writes one for each k.

    Raises WsteerError for an adapter of changes that are not low-rank, or that PEFT cannot address.
    """
    combination, model = Combination.of(deltas, k, sweep), open_model(base)
    combination, checkpoint = combination.on(model), model.checkpoint
    suffix = ".safetensors" if form == "delta" else ""
    path = Path(output) if output is not None else Path(combination.name(model) + ("" if sweep else suffix))
    as_folder = form == "adapter" or combination.swept
    check_output(path, force, folder=as_folder, inputs=[*model.folders, *combination.references])
    if not any(combination.ks):
        raise WsteerError(f"k = 0 gives no {form}: nothing would change")
    total = combination.total(model, selection)
    delta = total.delta
    factors, size = None, delta.stored_bytes
    if form == "adapter":
        from wsteer.deltas.adapters import writing  # noqa: PLC0415  imports transformers

        factors = writing.parameter_factors(delta, checkpoint)
        size = writing.adapter_bytes(factors)
    check_free_space(path, len(combination.ks) * size)
    sources = total.sources
    inputs = [checkpoint.input_entry("base"), *sources]

    def recorded(ks: Sequence[float]) -> dict:
        return record("steer", {**selection.options, "as": form, "k": list(ks)}, inputs)

    first = combination.ks[0]
    if not as_folder:
        outputs = [path]
        with new_file(path, force) as unnamed:
            _described(first * delta, checkpoint, sources, combination.each_k(first)).write(unnamed, progress)
            check_unchanged(total.files)
    else:
        outputs = [path / f"k{numbered(each)}{suffix}" for each in combination.ks] if combination.swept else [path]
        with new_folder(path, force) as partial:
            for each, target in zip(combination.ks, outputs, strict=True):
                ks = combination.each_k(each)
                place = partial / target.relative_to(path)
                if factors is None:
                    _described(each * delta, checkpoint, sources, ks).save(place, progress=progress)
                else:
                    place.mkdir(exist_ok=True)
                    name = hub_name(model.reference) or model.reference
                    writing.write_adapter(place, factors, each, checkpoint, name)
                    write_json(place / RECORD, recorded(ks))
            write_json(partial / RECORD, recorded(combination.ks))
            check_unchanged(total.files)
    return ExportReport(
        output=str(path),
        outputs=tuple(str(each) for each in outputs),
        form=form,
        k=combination.ks if combination.swept else combination.each_k(first),
        parameters=len(delta.terms),
        rank=writing.served_rank(factors) if factors is not None else None,
        bytes=sum(file.stat().st_size for each in outputs for file in ([each] if each.is_file() else each.iterdir())),
        warnings=total.warnings,
    )


def _described(delta: Delta, checkpoint: Checkpoint, sources: Sequence[Mapping], ks: Sequence[float]) -> Delta:
    return Delta(
        "combination",
        delta.terms,
        checkpoint.identity,
        tuple(sources),
        options={"k": list(ks)},
        untied=delta.untied,
        blocks=delta.blocks or block_path(checkpoint),
    )
