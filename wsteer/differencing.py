"""POS - NEG: the contrastive delta of two fine-tunes, or the task vector of one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsteer.adapter import CONFIG as ADAPTER_CONFIG
from wsteer.adapter import is_adapter, read_adapter
from wsteer.checkpoint import FLOATS, Checkpoint, TensorEntry, fetch, open_checkpoint, read_rows, row_blocks
from wsteer.delta import Delta, Dense, check_fits
from wsteer.errors import WsteerError
from wsteer.gram import cosine_from_gram, gram
from wsteer.progress import Track, silent
from wsteer.saving import check_output, recordable, sha256

UNRESOLVED = 0.5  # share of bit-identical entries from which a 16-bit pair is said not to resolve its difference


@dataclass(frozen=True)
class DiffReport:
    """What `diff` wrote. Norms are Frobenius norms in float64; a norm or cosine that the inputs cannot tell is None."""

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
    cos_pos_neg: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """One input of diff: a change of weights (adapter or delta file), or a checkpoint's weights themselves."""

    role: str
    reference: str
    delta: Delta | None
    checkpoint: Checkpoint | None
    files: tuple[Path, ...]

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


def diff(
    pos: str | Path,
    neg: str | Path | None = None,
    output: str | Path = "delta.safetensors",
    *,
    base: str | Path | None = None,
    force: bool = False,
    track: Track = silent,
) -> DiffReport:
    """Write the delta POS - NEG, or with POS alone its task vector, to the file `output`.

    `pos` and `neg` are each a PEFT LoRA adapter, a checkpoint or a delta file. The difference of two adapters is taken
    from their factors, exactly and without the base; a checkpoint alone, or beside an adapter, needs `base`.

    Raises WsteerError where the sides do not fit each other, or where their difference is nothing.

    >>> import tempfile, torch, wsteer
    >>> folder = tempfile.mkdtemp()
    >>> for side, value in (("pos", 3.0), ("neg", 1.0)):
    ...     wsteer.Delta.of_tensors({"w": torch.full((2, 2), value)}).save(f"{folder}/{side}.safetensors")
    >>> report = wsteer.diff(f"{folder}/pos.safetensors", f"{folder}/neg.safetensors", f"{folder}/w.safetensors")
    >>> report.kind, report.norm, report.norm_pos, report.cos_pos_neg
    ('contrastive', 4.0, 6.0, 1.0)
    """
    output = Path(output)
    check_output(output, force, folder=False, inputs=[path for path in (pos, neg, base) if path is not None])
    sides = [open_side(pos, "pos")] + ([open_side(neg, "neg")] if neg is not None else [])
    base_checkpoint = open_checkpoint(base) if base is not None else None
    identity = _common_base(sides, base_checkpoint)
    changes = [_change(side, base_checkpoint) for side in sides]
    combined = _subtract(sides, changes, track)
    delta = replace(combined, kind=_kind(sides), base=identity, sources=())
    dots = gram(changes, track) if None not in changes else None
    norm, identical = _norm_and_identical(delta, track)
    # equal adapters cancel up to float64's rounding, not to a clean 0
    scale = max(dots[i][i] for i in range(len(dots))) ** 0.5 if dots else 0.0
    if not math.isfinite(norm):
        raise WsteerError(
            f"{recordable(pos)} or what it is compared with holds NaN or infinity; the training run diverged"
        )
    if norm <= 1e-12 * scale:
        against = f" against {recordable(neg)}" if neg is not None else ""
        raise WsteerError(f"{recordable(pos)} changes nothing{against}; there is no direction to write")
    sources = tuple(side.source for side in sides)
    if base_checkpoint:
        sources += ({"role": "base", "path": base_checkpoint.name, "sha256": None},)
    replace(delta, sources=sources).save(output, force, track)
    return _report(delta, output, norm, dots, _resolution_warnings(sides, identical))


def open_side(reference: str | Path, role: str) -> Side:
    """What `reference` names, by what lies there: a delta file, an adapter folder, else a checkpoint."""
    path = Path(reference)
    if path.is_file():
        return Side(role, str(reference), Delta.load(path), None, (path,))
    if not path.exists() and path.suffix == ".safetensors":
        raise WsteerError(f"{reference} does not exist")
    folder, _ = fetch(reference)
    if is_adapter(folder):
        adapter = read_adapter(folder)
        delta = replace(Delta.of_factors(adapter.factors), base=adapter.base)
        return Side(role, str(reference), delta, None, (adapter.weights,))
    if not (folder / "config.json").exists():
        raise WsteerError(f"{reference} is neither an adapter ({ADAPTER_CONFIG}) nor a checkpoint (config.json)")
    checkpoint = open_checkpoint(reference)
    return Side(role, str(reference), None, checkpoint, tuple(checkpoint.shards))


def _kind(sides: list[Side]) -> str:
    kind = sides[0].delta.kind if sides[0].delta else "task_vector"
    return "contrastive" if len(sides) == 2 and kind != "activation" else kind


def _change(side: Side, base: Checkpoint | None) -> Delta | None:
    """The side's change against the base; None for a checkpoint whose base is not given."""
    if side.delta:
        if base and side.delta.kind != "activation":
            check_fits(side.delta, base)
        return side.delta
    if base is None:
        return None
    return _weights(side.checkpoint, side.path, base, base.name) - _weights(base, base.name, side.checkpoint, side.path)


def _weights(checkpoint: Checkpoint, path: str, other: Checkpoint, other_path: str) -> Delta:
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


def _subtract(sides: list[Side], changes: list[Delta | None], track: Track) -> Delta:
    if len(sides) == 2 and sides[0].checkpoint and sides[1].checkpoint:
        pos, neg = sides  # directly, even where the base is known: it would cancel, with its rounding left behind
        pos_weights = _weights(pos.checkpoint, pos.path, neg.checkpoint, neg.path)
        combined = pos_weights - _weights(neg.checkpoint, neg.path, pos.checkpoint, pos.path)
    elif None not in changes:
        combined = changes[0] - changes[1] if len(changes) == 2 else changes[0]
    elif len(sides) == 1:
        raise WsteerError(f"{sides[0].path} is a checkpoint: its task vector needs --base, the model it was tuned from")
    else:
        raise WsteerError("one side is a checkpoint and the other a change of weights: give their common --base")
    if any(side.checkpoint for side in sides):
        combined = replace(combined, terms=_touched(combined, track))
    return combined


def _touched(delta: Delta, track: Track) -> dict:
    """The terms without the parameters whose stored tensors are equal to the byte, such as frozen embeddings."""
    return {name: terms for name, terms in track(list(delta.terms.items()), "scan") if not _cancels(terms)}


def _cancels(terms: tuple) -> bool:
    if len(terms) != 2 or sum(scale for scale, _ in terms) != 0:
        return False
    first, second = (term.tensor if isinstance(term, Dense) else None for _, term in terms)
    if not isinstance(first, TensorEntry) or not isinstance(second, TensorEntry):
        return False
    # a touched tensor nearly always differs within its first block, so this reads little of it
    return all(torch.equal(read_rows(first, *rows), read_rows(second, *rows)) for rows in row_blocks(first.shape))


def _common_base(sides: list[Side], base: Checkpoint | None) -> Mapping[str, str | None]:
    """The base of both sides; different fingerprints are an error, since their difference means nothing."""
    bases = [side.base for side in sides if side.delta]
    names = [f"{side.path} ({side.base['name']})" for side in sides if side.delta]
    if base:
        bases.append(base.identity)
        names.append(f"--base {base.name}")
    if not bases:
        # bare checkpoints: their common base was never seen, but its architecture is theirs
        return {"name": None, "revision": None, "fingerprint": sides[0].checkpoint.fingerprint}
    if len({each["fingerprint"] for each in bases if each["fingerprint"]}) > 1:
        raise WsteerError(f"{' and '.join(names)} have different bases; diff fine-tunes of one base")
    return base.identity if base else next((each for each in bases if each["fingerprint"]), bases[0])


def _norm_and_identical(delta: Delta, track: Track) -> tuple[float, float]:
    """The norm and, over the dense parameters, the share of entries that are exactly zero: one pass over the data."""
    low_rank = replace(delta, terms={name: delta.terms[name] for name in delta.terms if delta.is_low_rank(name)})
    squares = gram([low_rank])[0][0]
    zeros = entries = 0
    for name in track([name for name in delta.terms if not delta.is_low_rank(name)], "measure"):
        change = delta.change(name)
        for start, stop in row_blocks(change.shape):
            rows = change.rows(start, stop).double()
            squares += float((rows * rows).sum())
            zeros += int((rows == 0).sum())
            entries += rows.numel()
    return squares**0.5, zeros / entries if entries else 0.0


def _resolution_warnings(sides: list[Side], identical: float) -> tuple[str, ...]:
    checkpoints = [side.checkpoint for side in sides if side.checkpoint]
    sixteen_bit = any(entry.dtype in ("F16", "BF16") for point in checkpoints for entry in point.tensors.values())
    if not sixteen_bit or identical < UNRESOLVED:
        return ()
    return (
        f"{identical:.0%} of the entries are equal in the 16-bit checkpoints: they cannot resolve this delta; "
        "diff the adapters, or checkpoints saved in float32",
    )


def _report(
    delta: Delta, output: Path, norm: float, dots: list[list[float]] | None, warnings: tuple[str, ...]
) -> DiffReport:
    low_rank = [name for name in delta.terms if delta.is_low_rank(name)]
    ranks = [delta.rank(name) for name in low_rank]
    both = dots is not None and len(dots) == 2
    return DiffReport(
        output=str(output),
        kind=delta.kind,
        parameters=len(delta.terms),
        low_rank=len(low_rank),
        dense=len(delta.terms) - len(low_rank),
        rank=max(ranks, default=None),
        bytes=output.stat().st_size,
        norm=norm,
        norm_pos=dots[0][0] ** 0.5 if dots else None,
        norm_neg=dots[1][1] ** 0.5 if both else None,
        cos_pos_neg=cosine_from_gram(dots, 0, 1) if both and dots[0][0] and dots[1][1] else None,
        warnings=warnings,
    )
