"""POS - NEG: the contrastive delta of two fine-tunes, or the task vector of one."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import layer_name, likely_path, module_name
from wsteer.deltas.bases import base_warnings
from wsteer.deltas.delta import Delta
from wsteer.deltas.geometry import geometry
from wsteer.deltas.gram import cosine_from_gram
from wsteer.deltas.inputs import Input, WeightsInput, mean
from wsteer.deltas.measuring import Measured, write_measured
from wsteer.deltas.model_input import open_model
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.deltas.sides import Pair, common_base, known_changes, references_by_seed, subtracted
from wsteer.deltas.spectrum import SpectrumReport, matrices, spectra, summary, write_tables
from wsteer.deltas.trainings import training_warnings
from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.provenance import RECORD, record, recordable
from wsteer.files.saving import check_free_space, check_output, new_file, new_folder
from wsteer.files.text import write_json
from wsteer.progress import Progress, silent
from wsteer.workers import beside

UNRESOLVED = 0.5  # share of entries below half an ulp from which a 16-bit pair counts as not resolving its delta


@dataclass(frozen=True)
class DiffReport:
    """What `diff` wrote. Norms are Frobenius norms in float64; a norm or cosine that is unknown is None.

    `layers` and `modules` are shares of the squared norm, by decoder block (`other`: outside of them) and by the last
    module of a parameter's name. `below_half_ulp` is the share of entries that are equal in a pair of 16-bit
    checkpoints. `retained` is the share of the squared norm that was written after `--rank`; `complement_of` is that
    rank if it is what the part of that rank leaves. With `bisector` each side was divided by its norm: a k of the plain
    difference is about k·(norm_pos + norm_neg)/2 here. The norms and cosines of both sides are those of `Geometry`.
    With several `seeds` the mean of their deltas was written; `cos_seeds` [seeds, seeds] are the cosines between them.
    `spectrum` sums up the spectra of what was written.
    """

    output: str
    kind: str
    parameters: int
    low_rank: int
    dense: int
    rank: int | None
    bytes: int
    norm: float
    norm_pos: float | None
    norm_neg: float | None
    norm_ratio: float | None
    cos_pos_neg: float | None
    cos_opposite: float | None
    norm_drift: float | None
    drift_ratio: float | None
    cos_drift: float | None
    layers: dict[str, float]
    modules: dict[str, float]
    pos_only: int
    neg_only: int
    retained: float | None
    below_half_ulp: float | None
    untied: bool
    seeds: tuple[int, ...] = ()
    cos_seeds: tuple[tuple[float, ...], ...] = ()
    bisector: bool = False
    complement_of: int | None = None
    spectrum: SpectrumReport | None = None
    warnings: tuple[str, ...] = ()


def diff(
    pos: str | Path,
    neg: str | Path | None = None,
    output: str | Path = "delta.safetensors",
    *,
    base: str | Path | None = None,
    rank: int | None = None,
    complement: bool = False,
    bisector: bool = False,
    spectrum: str | Path | None = None,
    selection: Selection = EVERYTHING,
    force: bool = False,
    progress: Progress = silent,
) -> DiffReport:
    """Write the delta POS - NEG, or the task vector of POS alone, to the file `output`.

    `pos` and `neg` are each a PEFT adapter, a checkpoint or a delta file. The difference of two LoRA adapters is taken
    from their factors, exactly and without the base; a checkpoint alone, or paired with an adapter, needs `base`, and
    so do adapters whose change depends on the base's weights (default: the adapter's own base). `rank` writes the
    closest change of that rank for every matrix, or with `complement` what that leaves. The `bisector` is
    τ⁺/‖τ⁺‖ - τ⁻/‖τ⁻‖, for sides of unequal length. For folders that `finetune --seeds` wrote, the mean of the seeds'
    deltas is written. `spectrum` is a new folder for the singular values of what is written.

    Raises WsteerError if the sides do not fit each other, or if their difference is zero.

    >>> import tempfile, torch, wsteer
    >>> folder = tempfile.mkdtemp()
    >>> for side, value in (("pos", 3.0), ("neg", 1.0)):
    ...     wsteer.Delta.of_tensors({"w": torch.full((2, 2), value)}).save(f"{folder}/{side}.safetensors")
    >>> report = wsteer.diff(f"{folder}/pos.safetensors", f"{folder}/neg.safetensors", f"{folder}/w.safetensors")
    >>> report.kind, report.norm, report.norm_pos, report.cos_pos_neg
    ('contrastive', 4.0, 6.0, 1.0)
    """
    _check_options(neg, rank, complement, bisector)
    output = Path(output)
    inputs = [path for path in (pos, neg, base) if path is not None]
    check_output(output, force, folder=False, inputs=inputs)
    if spectrum is not None:
        _check_folder(Path(spectrum), output, force, inputs)
    given_base = open_model(base) if base is not None else None
    references = references_by_seed(pos, neg)
    pairs = {seed: subtracted(sides, given_base, selection, bisector) for seed, sides in references.items()}
    first, *_ = pairs.values()
    sides = [side for pair in pairs.values() for side in pair.sides]
    deltas = [pair.delta for pair in pairs.values()]
    common_base(sides, first.base)  # checked over all seeds
    options = _options(rank, complement, bisector)
    earlier = first.delta.options if neg is None or first.delta.kind == "activation" else {}
    if rank is not None:
        earlier = {name: value for name, value in earlier.items() if name != "complement"}  # of another rank
    described = {**earlier, **options}
    delta = replace(mean(deltas), kind=first.delta.kind, base=first.delta.base, options=described)
    if spectrum is not None and delta.terms and not any(matrices(name, delta.shape(name)) for name in delta.terms):
        raise WsteerError("the delta holds vectors alone, which have no singular values; leave out --spectrum")
    of_sides = zip(*(pair.changes for pair in pairs.values()), strict=True)  # for each side, its changes of all seeds
    changes = [None if (known := known_changes(each)) is None else mean(known) for each in of_sides]
    vectors = [delta, *(known_changes(changes) or ()), *(deltas if len(deltas) > 1 else ())]
    read = [*sides, *([given_base.change] if given_base and given_base.change else [])]
    placeholder = replace(delta, sources=_sources(read, first.base, digest="0" * 64))
    check_free_space(output, delta.stored_bytes)
    with (
        new_folder(Path(spectrum), force) if spectrum is not None else contextlib.nullcontext() as folder,
        new_file(output, force) as partial,
        beside(lambda: _sources(read, first.base)) as sources,
    ):
        # the digests are computed in parallel: the arithmetic reads the same files
        measured = write_measured(partial, vectors, rank, complement, placeholder, sources, progress)
        check_unchanged(file for each in read for file in each.files)
        _check_direction(measured, pos, neg, bisector)
        spectra_of_it = None
        if spectrum is not None and folder is not None:
            write_json(folder / RECORD, record("diff", {**options, **selection.options}, sources()))
            spectra_of_it = replace(_write_spectrum(folder, partial, progress), output=str(spectrum))
    report = _report(delta, output, pairs, changes, measured, complement)
    return replace(report, bisector=bisector, complement_of=rank if complement else None, spectrum=spectra_of_it)


def _check_options(neg: str | Path | None, rank: int | None, complement: bool, bisector: bool) -> None:
    if rank is not None and rank < 1:
        raise WsteerError(f"rank {rank} would leave nothing of the delta; give --rank 1 or more")
    if complement and rank is None:
        raise WsteerError("--complement is what the closest delta of a rank leaves; give --rank R")
    if bisector and neg is None:
        raise WsteerError("--bisector subtracts two sides; give NEG")


def _check_folder(folder: Path, output: Path, force: bool, inputs: Sequence[str | Path]) -> None:
    """Refuse a folder for the spectrum that is no new one, or in which the delta would be written."""
    if output.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(output.resolve()):
        raise WsteerError(f"--spectrum {folder} and the delta {output} need places of their own; name another folder")
    if folder.exists() and not force:  # `check_output` speaks of -o
        raise WsteerError(f"--spectrum {folder} exists; name a new folder, or replace it with --force")
    check_output(folder, force, folder=True, inputs=inputs)


def _options(rank: int | None, complement: bool, bisector: bool) -> dict[str, object]:
    """The options that a delta's metadata lists: those that change its numbers."""
    given = {"rank": rank, "complement": complement, "bisector": bisector}
    return {name: value for name, value in given.items() if value}


def _write_spectrum(folder: Path, written: Path, progress: Progress) -> SpectrumReport:
    """The spectra of the delta file `written`, as tables and a picture in `folder`."""
    from wsteer.deltas.spectrum_pictures import spectrum_picture  # noqa: PLC0415  matplotlib takes long to import
    from wsteer.files.pictures import save  # noqa: PLC0415

    found = list(spectra(Delta.load(written), progress))
    write_tables(folder, found)
    save(spectrum_picture(found), folder / "spectrum.png", svg=True)
    return summary(folder, found)


def _sources(
    sides: Sequence[Input], base: Checkpoint | None, digest: str | None = None
) -> tuple[Mapping[str, object], ...]:
    """The inputs as the delta's metadata lists them; `digest`, if given, replaces the sides' own digests."""
    listed: list[Mapping[str, object]] = [
        side.source if digest is None else {"role": side.role, "path": side.path, "sha256": digest} for side in sides
    ]
    return (*listed, *([{"role": "base", "path": base.name, "sha256": None}] if base else ()))


def _check_direction(measured: Measured, pos: str | Path, neg: str | Path | None, bisector: bool) -> None:
    squares = [measured.dots[i][i] for i in range(len(measured.dots))]
    if not all(square < float("inf") for square in squares):  # NaN compares false
        raise WsteerError(
            f"{recordable(pos)} or what it is compared with holds NaN or infinity; the training run diverged"
        )
    # equal adapters cancel up to float64's rounding, not exactly to 0; a bisector's sides have the norm 1
    if squares[0] <= 1e-24 * (1 if bisector else max(squares)):
        against = f" against {recordable(neg)}" if neg is not None else ""
        raise WsteerError(f"{recordable(pos)} changes nothing{against}; there is no direction to write")


def _report(
    delta: Delta,
    output: Path,
    pairs: Mapping[int, Pair],
    changes: list[Delta | None],
    measured: Measured,
    complement: bool,
) -> DiffReport:
    dots = measured.dots
    sides = [side for pair in pairs.values() for side in pair.sides]
    base_names = [name for pair in pairs.values() for name in pair.base_names]
    known = known_changes(changes) or []
    both = len(known) == 2
    lie = geometry(dots, len(known))
    of_seeds = range(1 + len(known), len(dots))
    ranks = [rank for rank in measured.ranks.values() if rank is not None]
    names = [set(change.terms) for change in known]
    one_sided = (len(names[0] - names[1]), len(names[1] - names[0])) if both else (0, 0)
    below = _below_half_ulp(sides, measured)
    cos_seeds = tuple(tuple(cosine_from_gram(dots, i, j) for j in of_seeds) for i in of_seeds)
    return DiffReport(
        output=str(output),
        kind=delta.kind,
        parameters=len(measured.ranks),
        low_rank=len(ranks),
        dense=len(measured.ranks) - len(ranks),
        rank=max(ranks, default=None),
        bytes=output.stat().st_size,
        norm=measured.written**0.5,
        norm_pos=lie.norm_pos,
        norm_neg=lie.norm_neg,
        norm_ratio=lie.norm_ratio,
        cos_pos_neg=lie.cos_pos_neg,
        cos_opposite=lie.cos_opposite,
        norm_drift=lie.norm_drift,
        drift_ratio=lie.drift_ratio,
        cos_drift=lie.cos_drift,
        layers=measured.shares(functools.partial(layer_name, blocks=delta.blocks or likely_path(delta.terms))),
        modules=measured.shares(module_name),
        pos_only=one_sided[0],
        neg_only=one_sided[1],
        retained=measured.written / dots[0][0] if measured.truncated else None,
        below_half_ulp=below,
        untied=delta.untied,
        seeds=tuple(pairs) if of_seeds else (),
        cos_seeds=cos_seeds,
        warnings=(
            *_warnings(below, measured, complement, base_names),
            *_equal_seeds(tuple(pairs), cos_seeds),
            *training_warnings([pair.sides for pair in pairs.values()]),
        ),
    )


def _equal_seeds(seeds: Sequence[int], cosines: Sequence[Sequence[float]]) -> Iterator[str]:
    for i, j in itertools.combinations(range(len(cosines)), 2):
        if cosines[i][j] > 1 - 1e-9:
            yield f"the deltas of seeds {seeds[i]} and {seeds[j]} are equal: if one is a copy, the mean counts it twice"


def _below_half_ulp(sides: Sequence[Input], measured: Measured) -> float | None:
    """The share of entries that are equal in two 16-bit checkpoints: their difference is below half an ulp."""
    checkpoints = [side.checkpoint for side in sides if isinstance(side, WeightsInput)]
    sixteen_bit = any(entry.dtype in ("F16", "BF16") for point in checkpoints for entry in point.tensors.values())
    return measured.zeros / measured.entries if sixteen_bit and measured.entries else None


def _warnings(
    below_half_ulp: float | None, measured: Measured, complement: bool, base_names: Sequence[str | None]
) -> tuple[str, ...]:
    # fingerprints are equal or unknown; others were refused
    warnings = list(base_warnings(base_names, "these are one model, their difference steers neither"))
    if below_half_ulp is not None and below_half_ulp >= UNRESOLVED:
        warnings.append(
            f"{below_half_ulp:.0%} of the entries are equal in the 16-bit checkpoints: they cannot resolve this delta; "
            "diff the adapters, or checkpoints saved in float32"
        )
    if measured.not_truncated and complement:
        warnings.append(
            f"{measured.not_truncated} parameters are no matrices: --rank keeps them dense, the complement lacks them"
        )
    elif measured.not_truncated:
        warnings.append(f"--rank leaves {measured.not_truncated} parameters dense, which are no matrices")
    return tuple(warnings)
