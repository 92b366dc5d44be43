"""POS - NEG: the contrastive delta of two fine-tunes, or the task vector of one."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import UNKNOWN_BASE, Checkpoint, open_checkpoint
from wsteer.checkpoints.names import block_path, layer_name, likely_path, module_name
from wsteer.deltas.bases import base_warnings, check_bases
from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import cosine_from_gram
from wsteer.deltas.inputs import (
    ChangeInput,
    Input,
    WeightsInput,
    change_of,
    mean,
    names_in,
    open_input,
    seed_folders,
)
from wsteer.deltas.measuring import Measured, write_measured
from wsteer.deltas.model_input import ModelInput, open_model
from wsteer.deltas.pairing import on_base, weights_difference
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.provenance import recordable
from wsteer.files.saving import check_free_space, check_output, new_file
from wsteer.progress import Progress, silent
from wsteer.workers import beside

UNRESOLVED = 0.5  # share of entries below half an ulp from which a 16-bit pair counts as not resolving its delta


@dataclass(frozen=True)
class DiffReport:
    """What `diff` wrote. Norms are Frobenius norms in float64; a norm or cosine that is unknown is None.

    `layers` and `modules` are shares of the squared norm, by decoder block (`other`: outside of them) and by the last
    module of a parameter's name. `below_half_ulp` is the share of entries that are equal in a pair of 16-bit
    checkpoints. `retained` is the share of the squared norm that `--rank` kept. With several `seeds` the mean of their
    deltas was written; `cos_seeds` [seeds, seeds] are the cosines between them.
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
    layers: dict[str, float]
    modules: dict[str, float]
    pos_only: int
    neg_only: int
    retained: float | None
    below_half_ulp: float | None
    untied: bool
    seeds: tuple[int, ...] = ()
    cos_seeds: tuple[tuple[float, ...], ...] = ()
    warnings: tuple[str, ...] = ()


def diff(
    pos: str | Path,
    neg: str | Path | None = None,
    output: str | Path = "delta.safetensors",
    *,
    base: str | Path | None = None,
    rank: int | None = None,
    selection: Selection = EVERYTHING,
    force: bool = False,
    progress: Progress = silent,
) -> DiffReport:
    """Write the delta POS - NEG, or the task vector of POS alone, to the file `output`.

    `pos` and `neg` are each a PEFT adapter, a checkpoint or a delta file. The difference of two LoRA adapters is taken
    from their factors, exactly and without the base; a checkpoint alone, or paired with an adapter, needs `base`, and
    so do adapters whose change depends on the base's weights (default: the adapter's own base). `rank` writes the
    closest change of that rank for every matrix. For folders that `finetune --seeds` wrote, the mean of the seeds'
    deltas is written.

    Raises WsteerError if the sides do not fit each other, or if their difference is zero.

    >>> import tempfile, torch, wsteer
    >>> folder = tempfile.mkdtemp()
    >>> for side, value in (("pos", 3.0), ("neg", 1.0)):
    ...     wsteer.Delta.of_tensors({"w": torch.full((2, 2), value)}).save(f"{folder}/{side}.safetensors")
    >>> report = wsteer.diff(f"{folder}/pos.safetensors", f"{folder}/neg.safetensors", f"{folder}/w.safetensors")
    >>> report.kind, report.norm, report.norm_pos, report.cos_pos_neg
    ('contrastive', 4.0, 6.0, 1.0)
    """
    if rank is not None and rank < 1:
        raise WsteerError(f"rank {rank} would leave nothing of the delta; give --rank 1 or more")
    output = Path(output)
    check_output(output, force, folder=False, inputs=[path for path in (pos, neg, base) if path is not None])
    given_base = open_model(base) if base is not None else None
    pairs = {seed: _subtracted(sides, given_base, selection) for seed, sides in _references(pos, neg).items()}
    first, *_ = pairs.values()
    sides = [side for pair in pairs.values() for side in pair.sides]
    deltas = [pair.delta for pair in pairs.values()]
    _common_base(sides, first.base)  # checked over all seeds
    delta = replace(mean(deltas), kind=first.delta.kind, base=first.delta.base)
    of_sides = zip(*(pair.changes for pair in pairs.values()), strict=True)  # for each side, its changes of all seeds
    changes = [None if (known := _known(each)) is None else mean(known) for each in of_sides]
    vectors = [delta, *(_known(changes) or ()), *(deltas if len(deltas) > 1 else ())]
    read = [*sides, *([given_base.change] if given_base and given_base.change else [])]
    placeholder = replace(delta, sources=_sources(read, first.base, digest="0" * 64))
    check_free_space(output, delta.stored_bytes)
    with new_file(output, force) as partial, beside(lambda: _sources(read, first.base)) as sources:
        # the digests are computed in parallel: the arithmetic reads the same files
        measured = write_measured(partial, vectors, rank, placeholder, sources, progress)
        check_unchanged(file for each in read for file in each.files)
        _check_direction(measured, pos, neg)
    return _report(delta, output, pairs, changes, measured)


@dataclass(frozen=True)
class _Pair:
    """POS and NEG (or POS alone) of one seed: their difference, and each side's own change where it is known."""

    sides: list[Input]
    delta: Delta
    changes: list[Delta | None]
    base: Checkpoint | None
    base_names: list[str | None]


def _references(pos: str | Path, neg: str | Path | None) -> dict[int, dict[str, str | Path]]:
    """The inputs by seed, then by role; the key is 0 for inputs that are not folders of seeds."""
    given = {"pos": pos} if neg is None else {"pos": pos, "neg": neg}
    seeds = {role: seed_folders(reference) for role, reference in given.items()}
    if not any(seeds.values()):
        return {0: given}
    if len({tuple(found) for found in seeds.values()}) > 1:
        listed = " and ".join(f"{given[role]} has {', '.join(map(str, seeds[role])) or 'none'}" for role in given)
        raise WsteerError(f"the seeds differ: {listed}; train both sides with the same --seeds")
    return {seed: {role: seeds[role][seed] for role in given} for seed in seeds["pos"]}


def _subtracted(references: Mapping[str, str | Path], model: ModelInput | None, selection: Selection) -> _Pair:
    """The difference of one pair, under the names of the base's files; the base is read only where it is needed.

    If the base is an adapter, a checkpoint's change is what it has beyond the adapter's.
    """
    base = model.checkpoint if model else None
    sides = _sides(references, base, selection)
    identity = _common_base(sides, base)
    names = [side.base["name"] for side in sides if isinstance(side, ChangeInput)]
    at_hand = base or _own_base(sides)
    if at_hand and any(isinstance(side, ChangeInput) and side.own_base is None for side in sides):
        sides = _sides(references, at_hand, selection)  # again: renamed as in the base, shapes checked
    if not selection.is_everything:
        selection.check(set().union(*(names_in(side, at_hand) for side in sides)), at_hand)
    changes = [change_of(side, at_hand if isinstance(side, ChangeInput) else base, selection) for side in sides]
    if model and model.change:
        changes = [_beyond(model.change, *each, base, selection) for each in zip(sides, changes, strict=True)]
    delta = _difference(sides, changes, base, selection)
    if delta.needing_base() and at_hand is None:
        base = _named_base(delta, sides)
        sides = _sides(references, base, selection)
        changes = [change_of(side, base, selection) for side in sides]
        delta, identity = _difference(sides, changes, base, selection), _common_base(sides, base)
    delta, changes = _bound(delta, changes, sides, base)
    blocks = delta.blocks
    if _kind(sides) != "activation" and (known := base or at_hand) is not None:
        blocks = block_path(known)
    # activation vectors are still whole, and so are checkpoints
    delta = delta.part(selection.kept(delta.terms, base or at_hand))
    changes = [change and change.part(selection.kept(change.terms, base or at_hand)) for change in changes]
    delta = replace(delta, kind=_kind(sides), base=identity, sources=(), blocks=blocks)
    return _Pair(sides, delta, changes, base, names)


def _beyond(
    own: ChangeInput, side: Input, change: Delta | None, base: Checkpoint | None, selection: Selection
) -> Delta | None:
    """A side's change of an adapter's model, whose `own` change is in a checkpoint tuned from it."""
    if change is None or isinstance(side, WeightsInput):
        return change and change - own.delta.part(selection.kept(own.delta.terms, base))
    if change.needing_base():
        raise WsteerError(
            f"{side.path} changes weights as its base's weights tell, and --base {own.path} is an adapter; write its "
            f"model first: wsteer steer BASE {own.path} --k 1"
        )
    return change


def _own_base(sides: Sequence[Input]) -> Checkpoint | None:
    """The base named by the first adapter whose base is on this machine."""
    return next((side.own_base for side in sides if isinstance(side, ChangeInput) and side.own_base), None)


def _known(changes: Sequence[Delta | None]) -> list[Delta] | None:
    """The changes where all are known, else None."""
    known = [change for change in changes if change is not None]
    return known if len(known) == len(changes) else None


def _sides(references: Mapping[str, str | Path], base: Checkpoint | None, selection: Selection) -> list[Input]:
    return [open_input(reference, role, base, selection) for role, reference in references.items()]


def _kind(sides: Sequence[Input]) -> str:
    kind = sides[0].delta.kind if isinstance(sides[0], ChangeInput) else "task_vector"
    return "contrastive" if len(sides) == 2 and kind != "activation" else kind


def _named_base(delta: Delta, sides: Sequence[Input]) -> Checkpoint:
    """The base that the sides name, from the Hub; a base on this machine has been read already."""
    needed = f"{delta.needing_base()[0]} changes as its base's weights tell"
    for side in sides:
        name, revision = side.base["name"], side.base["revision"]
        if name and "/" in name:
            try:
                return open_checkpoint(f"{name}@{revision}" if revision else name)
            except WsteerError as error:
                raise WsteerError(f"{needed}, and {error}; name the base, unquantised, with --base") from None
    raise WsteerError(f"{needed}: name it, unquantised, with --base")


def _difference(
    sides: Sequence[Input], changes: Sequence[Delta | None], base: Checkpoint | None, selection: Selection
) -> Delta:
    weights = [side for side in sides if isinstance(side, WeightsInput)]
    if len(weights) == 2:
        pos, neg = weights  # directly, even if the base is known: it cancels, but its rounding would stay
        delta = weights_difference(pos.checkpoint, pos.path, neg.checkpoint, neg.path, selection)
        return delta if base is None else on_base(delta, base, neg.path)
    if (known := _known(changes)) is not None:
        return known[0] - known[1] if len(known) == 2 else known[0]
    if len(sides) == 1:
        raise WsteerError(f"{sides[0].path} is a checkpoint: its task vector needs --base, the model it was tuned from")
    raise WsteerError("one side is a checkpoint and the other a change of weights: give their common --base")


def _bound(
    delta: Delta, changes: list[Delta | None], sides: Sequence[Input], base: Checkpoint | None
) -> tuple[Delta, list[Delta | None]]:
    """The difference and the sides, bound to the base if they still depend on its weights.

    If the base is not on this machine and only the sides need it, their own norms stay unknown.
    """
    base = base or _own_base(sides)
    if base is None:
        return delta, [None if change is None or change.needing_base() else change for change in changes]
    return delta.bound(base), [change and change.bound(base) for change in changes]


def _common_base(sides: Sequence[Input], base: Checkpoint | None) -> Mapping[str, str | None]:
    """The base of both sides. Different fingerprints are an error: a difference across bases has no meaning."""
    named = [(side.path, side.base) for side in sides if isinstance(side, ChangeInput)]
    if base:
        named.append((f"--base {base.name}", base.identity))
    if not named:
        # two checkpoints without --base: their base is unknown, but it has their architecture, if they store one
        fingerprints = {side.base["fingerprint"] for side in sides}
        known = {"fingerprint": fingerprints.pop(), "towers": sides[0].base["towers"]} if len(fingerprints) == 1 else {}
        return {**UNKNOWN_BASE, **known}
    check_bases(named, "diff fine-tunes of one base")
    bases = [identity for _, identity in named]
    return base.identity if base else next((each for each in bases if each["fingerprint"]), bases[0])


def _sources(
    sides: Sequence[Input], base: Checkpoint | None, digest: str | None = None
) -> tuple[Mapping[str, object], ...]:
    """The inputs as the delta's metadata lists them; `digest`, if given, replaces the sides' own digests."""
    listed: list[Mapping[str, object]] = [
        side.source if digest is None else {"role": side.role, "path": side.path, "sha256": digest} for side in sides
    ]
    return (*listed, *([{"role": "base", "path": base.name, "sha256": None}] if base else ()))


def _check_direction(measured: Measured, pos: str | Path, neg: str | Path | None) -> None:
    squares = [measured.dots[i][i] for i in range(len(measured.dots))]
    if not all(square < float("inf") for square in squares):  # NaN compares false
        raise WsteerError(
            f"{recordable(pos)} or what it is compared with holds NaN or infinity; the training run diverged"
        )
    # equal adapters cancel up to float64's rounding, not exactly to 0
    if squares[0] <= 1e-24 * max(squares):
        against = f" against {recordable(neg)}" if neg is not None else ""
        raise WsteerError(f"{recordable(pos)} changes nothing{against}; there is no direction to write")


def _report(
    delta: Delta,
    output: Path,
    pairs: Mapping[int, _Pair],
    changes: list[Delta | None],
    measured: Measured,
) -> DiffReport:
    dots = measured.dots
    sides = [side for pair in pairs.values() for side in pair.sides]
    base_names = [name for pair in pairs.values() for name in pair.base_names]
    known = _known(changes) or []
    norms = [dots[i][i] ** 0.5 for i in range(1 + len(known))]
    both = len(known) == 2
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
        norm_pos=norms[1] if len(norms) > 1 else None,
        norm_neg=norms[2] if both else None,
        norm_ratio=norms[1] / norms[2] if both and norms[2] else None,
        cos_pos_neg=cosine_from_gram(dots, 1, 2) if both and dots[1][1] and dots[2][2] else None,
        layers=measured.shares(functools.partial(layer_name, blocks=delta.blocks or likely_path(delta.terms))),
        modules=measured.shares(module_name),
        pos_only=one_sided[0],
        neg_only=one_sided[1],
        retained=measured.written / dots[0][0] if measured.truncated else None,
        below_half_ulp=below,
        untied=delta.untied,
        seeds=tuple(pairs) if of_seeds else (),
        cos_seeds=cos_seeds,
        warnings=(*_warnings(below, measured, base_names), *_equal_seeds(tuple(pairs), cos_seeds)),
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


def _warnings(below_half_ulp: float | None, measured: Measured, base_names: Sequence[str | None]) -> tuple[str, ...]:
    # fingerprints are equal or unknown; others were refused
    warnings = list(base_warnings(base_names, "these are one model, their difference steers neither"))
    if below_half_ulp is not None and below_half_ulp >= UNRESOLVED:
        warnings.append(
            f"{below_half_ulp:.0%} of the entries are equal in the 16-bit checkpoints: they cannot resolve this delta; "
            "diff the adapters, or checkpoints saved in float32"
        )
    if measured.not_truncated:
        warnings.append(f"--rank leaves {measured.not_truncated} parameters dense, which are no matrices")
    return tuple(warnings)
