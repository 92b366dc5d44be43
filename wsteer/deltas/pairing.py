"""Two checkpoints subtracted by what their tensors mean: other prefixes, buffers that loading ignores, tied heads."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

from wsteer.checkpoints.checkpoint import EMBEDDINGS, HEADS, Checkpoint, base_entry
from wsteer.checkpoints.names import conversions_of, file_names, module_name
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.deltas.terms import Dense, simplified
from wsteer.errors import WsteerError
from wsteer.files.tensors import FLOATS, TensorEntry

Pair = tuple[TensorEntry, TensorEntry]


def weights_difference(
    first: Checkpoint, first_path: str, second: Checkpoint, second_path: str, selection: Selection = EVERYTHING
) -> Delta:
    """first - second as dense terms under the names of the second's files. Only headers are read, and copies of heads.

    Tensors that hold no floating-point numbers are left out. The delta unties the head if one side ties it and the
    other has its own. Raises WsteerError if a side lacks a tensor, or has it in another shape or as integers, unless
    `selection` leaves it out; then the delta names it all the same, for the selection to remove.
    """
    names, alone = _paired_names(first, first_path, second, second_path, selection)
    pairs = {name: (first.tensors[own], second.tensors[name]) for name, own in names.items()}
    unties = (first.tied is None) != (second.tied is None)
    if unties:
        pairs |= _heads(first, first_path, second, second_path)
    doubtful = [name for name, pair in pairs.items() if _may_be_ignored(name, pair)]
    if doubtful:
        ignored = _ignored(second, doubtful)
        pairs = {name: pair for name, pair in pairs.items() if name not in ignored}
    misfits = {name: pair for name, pair in pairs.items() if _misfit(pair)}
    for name in sorted(selection.kept(misfits, second)):
        raise WsteerError(_why(name, misfits[name], first_path, second_path, misfits))
    terms = {
        name: simplified(((-1.0, Dense(other)), (1.0, Dense(one))))
        for name, (one, other) in pairs.items()
        if one.dtype in FLOATS or name in misfits
    }
    terms = {name: left for name, left in terms.items() if left} | {  # nothing is left of a checkpoint minus itself
        name: ((1.0, Dense(entry)),) for name, entry in alone.items()
    }
    return Delta("combination", terms, untied=unties and second.ends[1] in terms)


def on_base(delta: Delta, base: Checkpoint, path: str) -> Delta:
    """A difference of two checkpoints under the names of their common base; it unties a head that the base ties."""
    names = file_names(delta.terms, base, path)
    unties = base.ends[1] in names.values() and base.tied is not None
    terms = {names[name]: terms for name, terms in delta.terms.items()}
    return replace(delta, terms=terms, untied=delta.untied or unties, blocks=None)


def _paired_names(
    first: Checkpoint, first_path: str, second: Checkpoint, second_path: str, selection: Selection
) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    """Each parameter of the second checkpoint and its name in the first, and what one side alone has.

    A head that one side ties is left out. Raises WsteerError for what one side alone has, if the selection takes it.
    """
    mine, theirs = first.parameters(), second.parameters()
    renamed: dict[str, str] = {}
    if (first.tied is None) != (second.tied is None):
        mine = {name: entry for name, entry in mine.items() if name != first.ends[1]}
        theirs = {name: entry for name, entry in theirs.items() if name != second.ends[1]}
    elif first.tied and second.tied and (first.tied[0] == first.ends[0]) != (second.tied[0] == second.ends[0]):
        # one side stores the tied pair as its embedding, the other as its head
        renamed = {second.tied[0]: first.tied[0]}
        mine = {second.tied[0] if name == first.tied[0] else name: entry for name, entry in mine.items()}
    if (found := _matched(mine, theirs, second)) is not None:
        return {name: renamed.get(own, own) for name, own in found.items()}, {}
    ignored = _ignored(first, mine), _ignored(second, theirs)
    mine = {name: entry for name, entry in mine.items() if name not in ignored[0]}
    theirs = {name: entry for name, entry in theirs.items() if name not in ignored[1]}
    if (found := _matched(mine, theirs, second)) is not None:
        return {name: renamed.get(own, own) for name, own in found.items()}, {}
    for has, has_path, lacks, lacks_path in (
        (mine, first_path, theirs, second_path),
        (theirs, second_path, mine, first_path),
    ):
        lacking = {name: has[name] for name in has if name not in lacks}
        for name in sorted(selection.kept(lacking, second)):
            raise WsteerError(f"{lacks_path} lacks {name!r}, which {has_path} has; the two must be of one model")
    alone = {name: (mine | theirs)[name] for name in sorted(mine.keys() ^ theirs)}
    return {name: renamed.get(name, name) for name in sorted(mine.keys() & theirs)}, alone


def _matched(mine: Iterable[str], theirs: Iterable[str], second: Checkpoint) -> dict[str, str] | None:
    """The names of the second checkpoint and of the first, where each has its partner, else None."""
    mine, theirs = set(mine), set(theirs)
    if mine == theirs:
        return {name: name for name in sorted(mine)}
    if len(mine) != len(theirs):
        return None
    try:
        renamed = file_names(sorted(mine), second, "the checkpoint")
    except WsteerError:
        return None
    return {name: own for own, name in renamed.items()} if set(renamed.values()) == theirs else None


def _heads(first: Checkpoint, first_path: str, second: Checkpoint, second_path: str) -> dict[str, Pair]:
    """The pair of the heads where one side ties its head: there it is the embedding."""
    heads = [each.ends[1] if each.tied else each.stored_head for each in (first, second)]
    if None in heads:
        lacks, has = (first_path, second_path) if heads[0] is None else (second_path, first_path)
        raise WsteerError(f"{lacks} has no head, which {has} has; the two must be of one model")
    one, other = (base_entry(str(head), each) for head, each in zip(heads, (first, second), strict=True))
    return {str(heads[1]): (one, other)}


def _ignored(checkpoint: Checkpoint, names: Collection[str]) -> set[str]:
    """Those of the stored tensors that loading ignores, as older models' `rotary_emb.inv_freq` and GPT-2's `attn.bias`.

    transformers tells, by the model without memory: it has the module that the tensor belongs to, or the one around it,
    and no such tensor. Nothing is ignored of a model that transformers does not know.
    """
    read: set[str] = set()
    modules: set[str] = set()
    around: dict[str, set[str]] = defaultdict(set)  # the paths of the modules that a tensor may belong to
    for conversion in conversions_of(checkpoint):
        read |= conversion.of_tensor.keys()
        modules |= {name for name, _ in conversion.model.named_modules() if name}
        for name in names:
            path = conversion.renamed(name)[0].rpartition(".")[0]
            for each in (path, f"{conversion.prefix}.{path}"):
                around[name] |= {each, each.rpartition(".")[0]}
    return {name for name in names if name not in read and around[name] & modules}


def _may_be_ignored(name: str, pair: Pair) -> bool:
    """Whether to ask if loading ignores a tensor of both sides: they differ in kind, or it looks like a buffer."""
    if name.endswith((*EMBEDDINGS, *HEADS)):
        return False
    leaf = name.rpartition(".")[2]
    return _misfit(pair) or leaf in ("inv_freq", "masked_bias") or (leaf == "bias" and len(pair[1].shape) > 1)


def _misfit(pair: Pair) -> bool:
    one, other = pair
    return one.shape != other.shape or (one.dtype != other.dtype and not {one.dtype, other.dtype} <= set(FLOATS))


def _why(name: str, pair: Pair, first_path: str, second_path: str, misfits: Iterable[str]) -> str:
    one, other = pair
    if one.dtype != other.dtype and not {one.dtype, other.dtype} <= set(FLOATS):
        return (
            f"{name} is {one.dtype} in {first_path} but {other.dtype} in {second_path}; use unquantised models for both"
        )
    if name.endswith((*EMBEDDINGS, *HEADS)) and one.shape[1:] == other.shape[1:]:
        modules = "|".join(sorted({module_name(each) for each in misfits if each.endswith((*EMBEDDINGS, *HEADS))}))
        return (
            f"{name} has {one.shape[0]} rows in {first_path} but {other.shape[0]} in {second_path}: the vocabulary was "
            f"resized; leave it out with --exclude '{modules}'"
        )
    return f"{name} is {one.shape} in {first_path} but {other.shape} in {second_path}; the bases differ"
