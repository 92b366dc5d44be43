"""POS and NEG opened and subtracted: their difference, and each side's own change where it is known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import UNKNOWN_BASE, Checkpoint, open_checkpoint
from wsteer.checkpoints.names import block_path
from wsteer.deltas.bases import check_bases
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import ChangeInput, Input, WeightsInput, change_of, names_in, open_input, seed_folders
from wsteer.deltas.model_input import ModelInput
from wsteer.deltas.pairing import on_base, weights_difference
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError


@dataclass(frozen=True)
class Pair:
    """POS and NEG (or POS alone) of one seed: their difference, and each side's own change where it is known."""

    sides: list[Input]
    delta: Delta
    changes: list[Delta | None]
    base: Checkpoint | None
    base_names: list[str | None]


def references_by_seed(pos: str | Path, neg: str | Path | None) -> dict[int, dict[str, str | Path]]:
    """The inputs by seed, then by role; the key is 0 for inputs that are not folders of seeds."""
    given = {"pos": pos} if neg is None else {"pos": pos, "neg": neg}
    seeds = {role: seed_folders(reference) for role, reference in given.items()}
    if not any(seeds.values()):
        return {0: given}
    if len({tuple(found) for found in seeds.values()}) > 1:
        listed = " and ".join(f"{given[role]} has {', '.join(map(str, seeds[role])) or 'none'}" for role in given)
        raise WsteerError(f"the seeds differ: {listed}; train both sides with the same --seeds")
    return {seed: {role: seeds[role][seed] for role in given} for seed in seeds["pos"]}


def subtracted(
    references: Mapping[str, str | Path], model: ModelInput | None, selection: Selection, bisector: bool = False
) -> Pair:
    """The difference of one pair, under the names of the base's files; the base is read only where it is needed.

    If the base is an adapter, a checkpoint's change is what it has beyond the adapter's. For the `bisector` each side
    is divided by its norm first.
    """
    base = model.checkpoint if model else None
    sides = _sides(references, base, selection)
    identity = common_base(sides, base)
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
        delta, identity = _difference(sides, changes, base, selection), common_base(sides, base)
    delta, changes = _bound(delta, changes, sides, base)
    blocks = delta.blocks
    if _kind(sides) != "activation" and (known := base or at_hand) is not None:
        blocks = block_path(known)
    # activation vectors are still whole, and so are checkpoints
    delta = delta.part(selection.kept(delta.terms, base or at_hand))
    changes = [change and change.part(selection.kept(change.terms, base or at_hand)) for change in changes]
    if bisector:
        delta = _bisected(changes, sides)
    delta = replace(delta, kind=_kind(sides), base=identity, sources=(), blocks=blocks)
    return Pair(sides, delta, changes, base, names)


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


def known_changes(changes: Sequence[Delta | None]) -> list[Delta] | None:
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
    if (known := known_changes(changes)) is not None:
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


def _bisected(changes: Sequence[Delta | None], sides: Sequence[Input]) -> Delta:
    """τ⁺/‖τ⁺‖ - τ⁻/‖τ⁻‖, whose direction halves the angle between τ⁺ and -τ⁻, however long they are."""
    known = known_changes(changes)
    if known is None:
        raise WsteerError("--bisector needs the task vectors of both sides; name their base, unquantised, with --base")
    units = []
    for side, change in zip(sides, known, strict=True):
        norm = change.norm()
        if not math.isfinite(norm):
            raise WsteerError(f"{side.path} holds NaN or infinity; the training run diverged")
        if norm == 0:
            raise WsteerError(f"{side.path} changes nothing in what is selected, so it has no direction to bisect")
        units.append((1 / norm) * change)
    return units[0] - units[1]


def common_base(sides: Sequence[Input], base: Checkpoint | None) -> Mapping[str, str | None]:
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
