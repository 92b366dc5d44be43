"""PEFT adapter folders as changes of weights, read from their factors: nothing is merged, the base is not loaded."""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsteer.checkpoints.checkpoint import (
    EMBEDDINGS,
    HEADS,
    UNKNOWN_BASE,
    Checkpoint,
    base_entry,
    hub_name,
    local_checkpoint,
    local_name,
)
from wsteer.checkpoints.contents import check_folder
from wsteer.checkpoints.names import NUMBERED, expert_files, file_names, known_names
from wsteer.checkpoints.ties import ties
from wsteer.deltas.adapters.keys import PREFIX
from wsteer.deltas.adapters.lora import BaseRows, BaseWeight, TokenRows
from wsteer.deltas.adapters.reading import (
    CONFIG,
    MUTATING_INITS,
    WEIGHTS,
    Reader,
    lora_init,
    lora_terms,
    required_base,
)
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.deltas.terms import Dense, LowRank, Term, Terms, read_factor
from wsteer.errors import WsteerError
from wsteer.files.limits import MATCHING, bounded
from wsteer.files.provenance import RECORD
from wsteer.files.tensors import (
    DTYPES,
    FLOATS,
    TensorEntry,
    equal_tensors,
    read_header,
    read_pickled_header,
    read_rows,
    row_blocks,
)
from wsteer.files.text import read_json

PICKLED_WEIGHTS = "adapter_model.bin"

# settings under which a LoRA is not a plain change of weights, or not a change of the base's own weights
REFUSED = {
    "alora_invocation_tokens": "aLoRA, which acts on some tokens only and so is no change of weights",
    "arrow_config": "Arrow, which mixes adapters by the input and so is no change of weights",
    "use_qalora": "QALoRA, which adapts a quantised base",
    "layer_replication": "layer_replication, whose copied layers share the base's weights",
}
# settings that change what the factors mean; text such as "false" would count as true
SWITCHES = ("use_rslora", "use_dora", "fan_in_fan_out", "ensure_weight_tying", "lora_bias")
LARGEST_NUMBER = 1 << 31  # the limit of ranks and alphas: no file holds larger factors, and floats overflow
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")  # these leave the base's weights as they are


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter: for each parameter of the base its change, as terms that are read when they are needed.

    `base` is the base as delta files name it, `checkpoint` the base itself if it is on this machine. `untied`: the head
    and the embedding, one tensor in the base, change separately. `left_out` names what a selection left out unread.
    """

    folder: Path
    base: dict[str, str | None]
    terms: dict[str, Terms]
    untied: bool
    weights: Path
    checkpoint: Checkpoint | None
    left_out: frozenset[str] = frozenset()


def is_adapter(folder: Path) -> bool:
    """Whether `folder` is a PEFT adapter."""
    return (folder / CONFIG).exists()


def find_adapter(folder: Path) -> Path | None:
    """The adapter folder: `folder`, or its only subfolder that is an adapter (peft puts named adapters there)."""
    if is_adapter(folder):
        return folder
    found = sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) if not (folder / "config.json").exists() else []
    if len(found) > 1:
        raise WsteerError(f"{folder} holds several adapters; name one: {', '.join(str(path) for path in found)}")
    if found:
        check_folder(found[0], root=folder)
    return found[0] if found else None


def read_adapter(folder: Path, base: Checkpoint | None = None, selection: Selection = EVERYTHING) -> Adapter:
    """Read an adapter folder from its headers. `base` defaults to the adapter's own, if that is on this machine.

    What `selection` leaves out is not read, and need not fit the base.

    LoRA in all its variants is read from its factors; other methods go through peft's own layers. An adapter that is
    not exactly a change of weights is refused with a WsteerError that names the reason.
    """
    config = read_json(folder / CONFIG)
    base = base or _own_base(folder, config)
    weights = next((folder / name for name in (WEIGHTS, PICKLED_WEIGHTS) if (folder / name).exists()), None)
    if weights is None:
        raise WsteerError(f"{folder} has no {WEIGHTS}; save the adapter with save_pretrained again")
    if config.get("peft_type") != "LORA":
        return _other_method(folder, config, base, weights, selection)
    _check_config(folder, config)
    entries = read_pickled_header(weights) if weights.suffix == ".bin" else read_header(weights)[0]
    reader, left_out = _part(Reader.of(folder, config, base, entries), selection)
    reader.resolve()  # before the limit of time: transformers may have to be asked
    with bounded(f"matching the names and patterns of {folder / CONFIG}", MATCHING):
        magnitudes = any("lora_magnitude_vector" in pieces for pieces in reader.modules.values())
        if config.get("use_dora") and reader.modules and not magnitudes:
            raise WsteerError(f"{folder} uses DoRA but holds no magnitude vectors; save the adapter again")
        terms, copies = lora_terms(reader)
    if not terms and not left_out:
        raise WsteerError(f"{folder} holds no LoRA factors; was it saved before training?")
    if copies:
        base = required_base(folder, config, base, f"it stores {next(iter(copies))} whole, perhaps as it was")
        terms = _without_copies(terms, copies, base)
    if base is not None:
        _check_shapes(folder, terms, base)
    terms, untied = _separate_tied(folder, config, base, terms)
    return Adapter(folder, _identity(folder, config, base), terms, untied, weights, base, left_out)


def _other_method(folder: Path, config: dict, base: Checkpoint | None, weights: Path, selection: Selection) -> Adapter:
    from wsteer.deltas.adapters.tuners import tuner_changes  # noqa: PLC0415  peft and transformers are imported for these alone

    base = required_base(folder, config, base, f"it is a {config.get('peft_type')} adapter")
    changes = tuner_changes(folder, base, selection)
    names = file_names(changes, base, folder)
    terms: dict[str, Terms] = {names[name]: ((1.0, Dense(change)),) for name, change in changes.items()}
    stored = [key.removeprefix(PREFIX) for key in read_header(weights)[0]]
    left_out = frozenset(stored) - set(selection.kept(stored))
    return Adapter(folder, _identity(folder, config, base), terms, False, weights, base, left_out)


def _part(reader: Reader, selection: Selection) -> tuple[Reader, frozenset[str]]:
    """The adapter without what the selection leaves out, and the names of that, as the base's files have them.

    What the base lacks has the adapter's own name. Experts that the files hold one by one stay, since a selection may
    take some of them.
    """
    if selection.is_everything:
        return reader, frozenset()
    base = reader.base
    own = [name for name in replace(reader, base=None).names if not (base and expert_files(name, base))]
    called = {name: name for name in own} | (known_names(own, base) if base else {})
    left_out = frozenset(called.values()) - set(selection.kept(called.values(), base))

    def kept(name: str) -> bool:
        return called.get(name) not in left_out

    modules = {
        module: pieces
        for module, pieces in reader.modules.items()
        if kept(f"{module}.weight") or (f"{module}.bias" in called and kept(f"{module}.bias"))
    }
    replaced, copies = ({name: each[name] for name in each if kept(name)} for each in (reader.replaced, reader.copies))
    return replace(reader, modules=modules, replaced=replaced, copies=copies), left_out


def _check_config(folder: Path, config: dict) -> None:
    for key, what in REFUSED.items():
        if config.get(key):
            raise WsteerError(f"{folder} uses {what}; wsteer cannot diff it")
    for key in SWITCHES:
        if not isinstance(config.get(key) or False, bool):
            raise WsteerError(f"{folder / CONFIG}: {key} must be true or false, not {config[key]!r}; save it again")
    init = lora_init(config)
    if init not in (*PLAIN_INITS, *MUTATING_INITS):
        raise WsteerError(
            f"{folder} was initialised by {init}, which changed the base in a way that the adapter does not tell; "
            "save it with path_initial_model_for_weight_conversion, which makes it a plain LoRA"
        )
    if init in MUTATING_INITS and config.get("kasa_config"):
        raise WsteerError(
            f"{folder} uses KaSA on a base that {init} had changed; merge it with peft in float32 and diff the result"
        )
    kinds = {"rank_pattern": dict, "alpha_pattern": dict, "target_parameters": list, "use_bdlora": dict}
    for key, kind in kinds.items():
        if not isinstance(config.get(key) or kind(), kind):
            raise WsteerError(f"{folder / CONFIG}: {key} must be a {kind.__name__}; save the adapter again")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    alphas = [config.get("lora_alpha"), *(config.get("alpha_pattern") or {}).values()]
    sound = all(type(rank) is int for rank in ranks) and all(type(alpha) in (int, float) for alpha in alphas)
    if not sound or not all(0 < number < LARGEST_NUMBER for number in (*ranks, *alphas)):
        raise WsteerError(f"{folder / CONFIG} lacks the numbers r and lora_alpha; save the adapter again")


def _without_copies(
    terms: Mapping[str, Terms], copies: Mapping[str, TensorEntry], base: Checkpoint
) -> dict[str, Terms]:
    """The terms; where a stored copy of a whole base weight differs from the base, the difference is added.

    peft saves the weight of an adapted embedding beside its factors, in case the vocabulary was resized.
    """
    kept = dict(terms)
    for name, copy in copies.items():
        stored = base_entry(name, base)
        if copy.shape != stored.shape or not all(
            torch.equal(read_rows(copy, *rows), read_rows(stored, *rows).to(DTYPES[copy.dtype]))
            for rows in row_blocks(stored.shape)
        ):
            kept[name] = (*terms.get(name, ()), (1.0, Dense(copy)), (-1.0, Dense(BaseWeight(name, copy.shape))))
    return kept


def _check_shapes(folder: Path, terms: Mapping[str, Terms], base: Checkpoint) -> None:
    for name, parts in terms.items():
        expected = base_entry(name, base).shape
        for _, term in parts:
            if base_entry(name, base).dtype not in FLOATS:
                stored = f"{name} is stored as {base_entry(name, base).dtype} in {base.name}"
                raise WsteerError(f"{folder}: {stored}; name the unquantised base with --base")
            if term.shape != expected:
                resized = name.endswith((*EMBEDDINGS, *HEADS)) and term.shape[1:] == expected[1:]
                hint = "the vocabulary was resized: resize the base's as well" if resized else "was it made on another?"
                raise WsteerError(f"{folder}: {name} is {term.shape} but {expected} in {base.name}; {hint}")


def _separate_tied(
    folder: Path, config: dict, base: Checkpoint | None, terms: dict[str, Terms]
) -> tuple[dict[str, Terms], bool]:
    """The terms, and whether they separately change the embedding and the head that the base ties.

    In peft, adapting an embedding does not change the head tied to it, nor the reverse. Two changes stay one: equal
    values stored for both (`ensure_weight_tying`, where peft can tie), and trained tokens of the embedding, which peft
    sets in the head too, unless the head has trained tokens of its own.
    """
    outside = [name for name in terms if not NUMBERED.match(name)]  # without any, the ends are not asked for
    heads = [name for name in outside if (name == base.ends[1] if base else name.endswith(HEADS))]
    embeddings = [name for name in outside if (name == base.ends[0] if base else name.endswith(EMBEDDINGS))]
    if not heads and not embeddings:
        return terms, False
    tokens = {name: [part for part in terms[name] if _is_of_tokens(part[1])] for name in (*embeddings, *heads)}
    if base is None and (not heads or any(tokens[name] for name in embeddings)):
        base = required_base(folder, config, base, f"{embeddings[0]} may be tied to the head")
    if base is None:
        if not config.get("ensure_weight_tying") or not embeddings:  # set, and with equal values, the base was tied
            return terms, True
        embedding, head = embeddings[0], heads[0]
    elif base.tied is None:
        return {**terms, **_tokens_of_own_head(base, terms, tokens)}, False
    else:
        embedding, head = base.tied
    if tokens.get(embedding) and not tokens.get(head):
        return ({**terms, head: (*terms[head], *tokens[embedding])}, True) if head in terms else (terms, False)
    if embedding in terms and head in terms and _are_equal(terms[embedding], terms[head]):
        return {name: parts for name, parts in terms.items() if name != head}, False
    return terms, True


def _tokens_of_own_head(base: Checkpoint, terms: Mapping[str, Terms], tokens: Mapping[str, list]) -> dict[str, Terms]:
    """The head's change where the config ties it and it is stored with values of its own: peft goes by the config."""
    head = base.stored_head
    parts = next((tokens[name] for name in tokens if name != head and tokens[name]), None)
    if parts is None or head is None or head in terms or not ties(base.config):
        return {}
    (_, rows), *_ = parts
    taken = BaseRows(head, rows.shape, rows.tensor.tokens)
    return {head: ((1.0, rows), (-1.0, Dense(taken)))}


def _is_of_tokens(term: Term) -> bool:
    return isinstance(term, Dense) and isinstance(term.tensor, TokenRows | BaseRows)


def _are_equal(first: Terms, second: Terms) -> bool:
    """Whether two changes, of the tied embedding and head, are made of equal stored values, which are read here."""
    if len(first) != len(second):
        return False
    return all(a == b and _are_equal_terms(one, other) for (a, one), (b, other) in zip(first, second, strict=True))


def _are_equal_terms(first: Term, second: Term) -> bool:
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        pairs = ((first.lora_B, second.lora_B), (first.lora_A, second.lora_A))
        return all(torch.equal(read_factor(one), read_factor(other)) for one, other in pairs)
    if not isinstance(first, Dense) or not isinstance(second, Dense):
        return False
    if isinstance(first.tensor, TensorEntry) and isinstance(second.tensor, TensorEntry):
        return equal_tensors(first.tensor, second.tensor)
    return isinstance(first.tensor, BaseWeight) and isinstance(second.tensor, BaseWeight)  # of the one tied tensor


def _identity(folder: Path, config: dict, base: Checkpoint | None) -> dict[str, str | None]:
    """The base's identity: from the training run's record, else from the base itself, else from adapter_config.json."""
    inputs = read_json(folder / RECORD).get("inputs") if (folder / RECORD).exists() else []
    for entry in inputs if isinstance(inputs, list) else []:
        if isinstance(entry, dict) and entry.get("role") == "base":
            return {key: _text(entry.get(key)) for key in UNKNOWN_BASE}
    if base is not None:
        return base.identity
    name = _text(config.get("base_model_name_or_path"))
    if not name:
        return UNKNOWN_BASE
    return {**UNKNOWN_BASE, "name": local_name(name), "revision": _text(config.get("revision"))}


def _text(value: object) -> str | None:
    """`value` if it is text that a file can hold (JSON's lone surrogates are not), else None."""
    return value if isinstance(value, str) and not re.search("[\ud800-\udfff]", value) else None


def base_of(folder: Path, config: dict) -> str | None:
    """How an adapter's config names its base, with its revision; None if it does not.

    A relative path is one from where the adapter was trained: it is looked for here, then in the folders above it.
    """
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        return None
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no path, but any text
        above = [str(place) for place in (parent / name for parent in folder.resolve().parents) if _is_model(place)]
        if above and not os.path.exists(os.path.expanduser(name)):
            return above[0]
    pinned = isinstance(revision, str) and revision and hub_name(name) is not None and "@" not in name
    return f"{name}@{revision}" if pinned else name


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _own_base(folder: Path, config: dict) -> Checkpoint | None:
    """The base that the adapter names, if it is on this machine and not quantised (its weights could not be read)."""
    name = base_of(folder, config)
    base = local_checkpoint(name) if name else None
    quantised = base is not None and (base.folder / "config.json").exists() and base.config.get("quantization_config")
    return None if quantised else base
